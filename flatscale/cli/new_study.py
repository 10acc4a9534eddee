"""`flatscale init`: a commented study file to begin with."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from flatscale.errors import ConfigError


def init(
    template: Annotated[
        str, typer.Argument(metavar="[TEMPLATE]", help="A study that comes with flatscale.")
    ] = "quickstart",
    to: Annotated[
        Path, typer.Option("--out", help="The file to write; its name becomes the study's.")
    ] = Path("my_study.yaml"),
    listed: Annotated[bool, typer.Option("--list", help="List the templates.")] = False,
) -> None:
    """Write a study file to begin with, every key explained; an existing file stays as it is.

    What the template does not say stands commented, with its meaning and its default.
    """
    from flatscale.study.bundled import templates
    from flatscale.study.schema import SLUG
    from flatscale.study.template import commented_study

    studies = templates()
    if listed:
        for name, text in studies.items():
            about = re.search(r"^description: *(.*)", text, re.M)
            typer.echo(f"{name}  {about[1] if about else ''}".rstrip())
        return
    if template not in studies:
        raise ConfigError(f"no template is named {template!r}; these are: {', '.join(studies)}")
    if not re.fullmatch(SLUG, to.stem):
        raise ConfigError(
            f"--out {to}: its name becomes the study's, so it is made of letters, digits, _ and -"
        )
    text = commented_study(studies[template], to.stem)
    try:
        with to.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise ConfigError(f"{to} exists and is not overwritten; give another --out") from None
    except OSError as error:
        raise ConfigError(f"cannot write {to}: {error}") from error
    typer.echo(f"wrote {to}; next: flatscale plan {to}, flatscale run {to}")
