"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ConfigPath = Annotated[
    Path,
    typer.Argument(metavar="CONFIG", help="The study file (YAML), or the name of a bundled study."),
]
StorePath = Annotated[
    Path, typer.Argument(metavar="STORE", help="The folder of a study's results.")
]
StoreOption = Annotated[
    Path | None,
    typer.Option("--store", help="Where results go.", show_default="runs/<study name>"),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override one key of the study file, such as `data.path=../cifar10`; may be repeated.",
    ),
]
ProfileOption = Annotated[
    str | None,
    typer.Option(
        help="Which of the study file's profiles to write over it.",
        show_default="the file as it is",
    ),
]

LabelOption = Annotated[
    str | None,
    typer.Option(
        help="Column(s) that name a row together, with commas between.",
        show_default="that of --on or --family-from",
    ),
]
PatternOption = Annotated[
    str | None,
    typer.Option(help="Regular expression for --family-from.", show_default="the leading letters"),
]
