"""A study file to begin with: a bundled one, in which every key it leaves out stands commented.

What is written about a key, and its default, come from the schema. A line `#key: value` can be
uncommented as it is, and then changes nothing; prose begins with `# `.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from flatscale.study.reading import parse_config, parse_table_study
from flatscale.study.schema import StudyConfig, json_schema
from flatscale.study.table_study import TableStudy

_TOP = re.compile(r"^(?=[a-z_]+:)", flags=re.MULTILINE)
_WIDTH = 98


def commented_study(text: str, name: str) -> str:
    """A study file's text under another name, with every further key, its meaning and default.

    Args:
        text: a valid study file; its values and comments stay.
        name: of the new study.
    """
    content = yaml.safe_load(text)
    whole = {key: value for key, value in content.items() if key != "profiles"}
    study: StudyConfig | TableStudy
    if "table" in whole:
        study, schema = parse_table_study(whole), TableStudy.model_json_schema()
    else:
        study, schema = parse_config(whole), json_schema()
    head, *sections = _TOP.split(text)
    written = [head]
    for section in sections:
        key = section.partition(":")[0]
        if key == "name":
            section = re.sub(r"^name:.*", f"name: {name}", section)
        # What stands before the next section, comments and empty lines, goes with that.
        own = re.match(r".*(?:\n(?:[ \t]+\S.*|[ \t]*(?=\n[ \t]+\S)))*", section)
        assert own is not None
        part = _part(schema, study, key)
        if part and isinstance(content[key], Mapping):
            block = section.partition("\n")[0].partition("#")[0].rstrip().endswith(":")
            further = _further(part, content[key], "  ", "#" if block else "# ")
            section = own[0] + "\n" + "".join(further) + section[own.end() :].removeprefix("\n")
        written.append(section)
    # base, set and profiles are of the file, not of the study that it stands for.
    fields = {key: schema["properties"][key] for key in type(study).model_fields}
    rest = "".join(_further({"properties": fields}, content, "", "#"))
    return "".join(written).rstrip("\n") + "\n\n# What else a study may say.\n" + rest


def _part(
    schema: Mapping[str, Any], study: StudyConfig | TableStudy, key: str
) -> Mapping[str, Any] | None:
    """The schema of a section that holds keys, in the form that the study gives it."""
    found: Mapping[str, Any] | None = schema["$defs"].get(type(getattr(study, key, None)).__name__)
    return found


def _further(
    part: Mapping[str, Any], given: Mapping[str, Any], indent: str, mark: str
) -> Iterator[str]:
    """Lines on every key that is not given and has a default."""
    for key, about in part["properties"].items():
        if key in given or ("default" not in about and about.get("type") != "object"):
            continue
        prose = about.get("description", "").split()
        if prose[:3] == ["Written", "by", "flatscale:"]:
            continue
        yield (
            textwrap.fill(
                " ".join(prose),
                _WIDTH,
                initial_indent=f"{indent}# ",
                subsequent_indent=f"{indent}# ",
                break_long_words=False,
                break_on_hyphens=False,
            )
            + "\n"
        )
        default = yaml.safe_dump(
            about.get("default", {}), default_flow_style=True, sort_keys=False, width=10_000
        ).removesuffix("...\n")  # what YAML ends a lone value with
        yield f"{indent}{mark}{key}: {default.strip()}\n"
