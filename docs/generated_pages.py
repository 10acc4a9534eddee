"""The parts of the site that are made from the package: keys, metrics, passes.

A page names what it wants in a line of its own, such as `<!-- metrics -->`. Formulas are typeset as
MathML, which browsers show without a script.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, get_type_hints

OPERATORS = {"argmax", "exp", "log", "max", "mean", "min", "sign", "softmax", "tr"}
BIG = ("Σ", "mean", "max", "min")
SCRIPTS = {
    "^": dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789", strict=True)),
    "_": dict(zip("₀₁₂₃₄₅₆₇₈₉", "0123456789", strict=True)),
}
SYMBOLS = dict(
    pair.split("=")
    for line in (
        r"Σ=\sum Π=\prod ‖=\Vert ≤=\le ≥=\ge ∈=\in ∘=\circ ∇=\nabla ∂=\partial ⟨=\langle ⟩=\rangle",
        r"−=- ·=\cdot ×=\times →=\to ∞=\infty ~=\sim {=\{ }=\} %=\% #=\# α=\alpha β=\beta γ=\gamma",
        r"δ=\delta ε=\epsilon θ=\theta κ=\kappa λ=\lambda μ=\mu π=\pi ρ=\rho σ=\sigma τ=\tau",
        r"φ=\phi ω=\omega",
    )
    for pair in line.split()
)
CLOSING = {"(": ")", "[": "]", "{": "}"}
TOKEN = re.compile(
    r"[A-Za-z]+(?:-[A-Za-z]+)+|[A-Za-z]{2,}|\d+(?:\.\d+)?|[⁰¹²³⁴⁵⁶⁷⁸⁹]+|[₀₁₂₃₄₅₆₇₈₉]+|\s+|."
)


def latex(formula: str) -> str:
    """A formula in the notation of the metrics' registry (`mean_i σ₁(J_i)²`) in LaTeX."""
    tokens, written = TOKEN.findall(formula), []
    while tokens:
        written.append(_taken(tokens))
    return "".join(written)


def _group(tokens: list[str]) -> str:
    """What stands in the brackets that begin here, without them."""
    opening, inside, depth = tokens.pop(0), list[str](), 1
    while tokens and depth:
        token = tokens.pop(0)
        depth += (token == opening) - (token == CLOSING[opening])
        inside.append(token)
    return latex("".join(inside[:-1]))


def _script(tokens: list[str]) -> str:
    """A subscript or superscript and those that follow it; nothing where none begins here."""
    if not tokens:
        return ""
    for mark, digits in SCRIPTS.items():
        if tokens[0][0] in digits:
            plain = "".join(digits[digit] for digit in tokens.pop(0))
            return f"{mark}{{{plain}}}" + _script(tokens)
        if tokens[0] == mark and len(tokens) > 1:
            tokens.pop(0)
            inner = _group(tokens) if tokens[0] in "{(" else _atom(tokens)
            return f"{mark}{{{inner}}}" + _script(tokens)
    return ""


def _atom(tokens: list[str]) -> str:
    token = tokens.pop(0)
    if token == "√":
        return rf"\sqrt{{{_radicand(tokens)}}}"
    if token in OPERATORS:
        return rf"\operatorname{{{token}}}"
    if token[0].isalpha() and token.isascii() and len(token) > 1:
        if token.islower() or "-" in token:
            return rf"\text{{{token}}}"
        return rf"\mathrm{{{token}}}" if token.isupper() else token
    return r"\ " if token.isspace() else f"{SYMBOLS.get(token, token)} "


def _radicand(tokens: list[str]) -> str:
    """What a root covers: a bracket, or one thing with the operators before it."""
    while tokens[0].isspace():
        tokens.pop(0)
    if tokens[0] in "([":
        return _group(tokens)
    operator = tokens[0] in BIG
    first = _atom(tokens) + _script(tokens)
    if not operator:
        return first
    while tokens[0].isspace():
        tokens.pop(0)
    if tokens[0] in "([":
        bracket = tokens[0]
        return f"{first} {bracket}{_group(tokens)}{CLOSING[bracket]}{_script(tokens)}"
    return f"{first} {_radicand(tokens)}"


def _taken(tokens: list[str]) -> str:
    return _atom(tokens) + _script(tokens)


def mathml(formula: str) -> str:
    """A formula of the registry as MathML."""
    from latex2mathml.converter import convert

    return convert(latex(formula))


def cell(text: str) -> str:
    """Text for one cell of a table."""
    return " ".join(text.split()).replace("|", "&#124;").replace("<", "&lt;")


def code(value: object) -> str:
    return f"`{json.dumps(value, ensure_ascii=False)}`".replace("|", "&#124;")


def metrics() -> Iterator[str]:
    """The catalog: a section a group, each metric with its formula and what is known of it."""
    from flatscale.metrics import metric_catalog

    groups: dict[str, list[Any]] = {}
    for info in metric_catalog():
        groups.setdefault(info.group, []).append(info)
    for group, found in groups.items():
        yield f"## {group.capitalize()}\n"
        for info in found:
            yield f"### {info.name}\n"
            yield f'<p class="formula">{mathml(info.formula)}</p>\n'
            yield f"{info.meaning}\n"
            facts = {
                "measured by default": "yes" if info.default else "",
                "bounds": f"[{info.bounds}](#{info.bounds})" if info.bounds else "",
                "variant of": f"[{info.variant_of}](#{info.variant_of})" if info.variant_of else "",
                "pass": ", ".join(f"[{name}](passes.md#{name})" for name in info.passes),
                "points": ", ".join(info.observers),
                "unmoved by": ", ".join(info.invariances),
                "range": f"{info.value_range}, unit {info.unit}",
                "source": info.source,
            }
            yield "\n".join(f"- {name}: {text}" for name, text in facts.items() if text) + "\n"
            yield from options(info.function)


def options(function: Any) -> Iterator[str]:
    """A table of the options of a registered function, if it has any."""
    from pydantic import TypeAdapter

    from flatscale.study.registry import option_parameters

    hints = get_type_hints(function, include_extras=True)
    rows = [
        f"| `{name}` | {cell(kind_of(TypeAdapter(hints[name]).json_schema()))} "
        f"| {code(parameter.default)} |"
        for name, parameter in option_parameters(function).items()
    ]
    if rows:
        yield "\n".join(["| option | values | default |", "| --- | --- | --- |", *rows]) + "\n"


def passes() -> Iterator[str]:
    """Every pass: what it is, its options, and what it gives to a metric."""
    import flatscale.metrics  # noqa: F401  (registers them)
    from flatscale.metrics.registration import METRICS, PASSES

    given: dict[str, Any] = {}
    for info in PASSES.values():
        result = get_type_hints(info.function, include_extras=True).get("return")
        given[result.__name__] = result
        users = [name for name, metric in METRICS.items() if info.name in metric.passes]
        yield f"### {info.name}\n"
        yield f"{info.meaning}\n"
        facts = {
            "gives": f"[{result.__name__}](#{result.__name__.lower()})",
            "takes": ", ".join(f"[{name}](#{name})" for name in info.needs),
            "metrics": ", ".join(f"[{name}](metrics.md#{name})" for name in users),
        }
        yield "\n".join(f"- {name}: {text}" for name, text in facts.items() if text) + "\n"
        yield from options(info.function)
    yield "## What they give\n"
    for name, kind in sorted(given.items()):
        yield f"### {name}\n"
        yield f"```text\n{inspect.getdoc(kind)}\n```\n"
        rows = [
            f"| `{member}` | {cell((inspect.getdoc(what) or '').split(chr(10) * 2)[0])} |"
            for member, what in vars(kind).items()
            if member[0] != "_" and (inspect.isfunction(what) or isinstance(what, property))
        ]
        if rows:
            yield "\n".join(["| member | meaning |", "| --- | --- |", *rows]) + "\n"


def kind_of(about: Mapping[str, Any]) -> str:
    """What values a node of the JSON Schema allows, in a few words."""
    if "$ref" in about:
        name = about["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    for several in ("anyOf", "oneOf"):
        if several in about:
            return " or ".join(dict.fromkeys(kind_of(one) for one in about[several]))
    if "const" in about:
        return code(about["const"])
    if "enum" in about:
        return ", ".join(code(one) for one in about["enum"])
    name = {"array": "list", "object": "mapping", "string": "text"}.get(
        about.get("type", ""), about.get("type", "any value")
    )
    if name == "list" and isinstance(about.get("items"), dict) and about["items"]:
        name = f"list of ({kind_of(about['items'])})"
    limits = {
        "minimum": "≥",
        "exclusiveMinimum": ">",
        "maximum": "≤",
        "exclusiveMaximum": "<",
    }
    said = [f"{sign} {about[key]:g}" for key, sign in limits.items() if key in about]
    return " ".join([name, *said])


def study_keys() -> Iterator[str]:
    """A section for every part of the study file, a row for every key."""
    from flatscale.study.schema import json_schema

    schema = json_schema()
    parts = {"StudyConfig": {k: v for k, v in schema.items() if k != "$defs"}}
    for part in (parts["StudyConfig"], *schema["$defs"].values()):  # in the order of the study file
        parts |= {name: schema["$defs"][name] for name in re.findall(r"\$defs/(\w+)", str(part))}
    for name, part in parts.items():
        yield f"## {name}\n"
        yield " ".join(part.get("description", "").split()) + "\n"
        rows = ["| key | values | default | meaning |", "| --- | --- | --- | --- |"]
        for key, about in part.get("properties", {}).items():
            default = "required" if key in part.get("required", ()) else "its own"
            if "default" in about and not isinstance(about["default"], dict):
                default = code(about["default"])
            values = cell(kind_of(about)) if "properties" not in about else "mapping"
            rows.append(
                f"| `{key}` | {values} | {default} | {cell(about.get('description', ''))} |"
            )
        yield "\n".join(rows) + "\n"


PARTS = {"metrics": metrics, "passes": passes, "study-keys": study_keys}


def with_generated(markdown: str) -> str:
    """A page with what it names in the place of its name."""
    return re.sub(
        r"^<!-- ([a-z-]+) -->$",
        lambda found: "\n".join(PARTS[found[1]]()),
        markdown,
        flags=re.MULTILINE,
    )
