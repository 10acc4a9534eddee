"""Run notebooks from top to bottom, each in a namespace of its own, and collect their claims.

    python notebooks/execute.py [NAME ...]

Writes the outputs into the notebooks and, where all of them run, the claims that they end with into
results/claims.csv and, for readers, into docs/claims.md; the main ones also into README.md. A
kernel is not needed: cells are plain Python, whose last expression is shown.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import altair as alt
import polars as pl
import vl_convert

from flatscale.stats import CLAIMS_SCHEMA

HERE = Path(__file__).resolve().parent
CLAIMS = HERE / "results" / "claims.csv"
PAGE = HERE.parent / "docs" / "claims.md"
README = HERE.parent / "README.md"
MAIN = (
    "flatter minima are less sensitive inside a family (r of logs)",
    "flatter minima are less sensitive between families (r of logs)",
    "Sharpness falls after interpolation (mean change of log10 S)",
    "MLS falls after interpolation (mean change of log10 MLS)",
    "Sharpness and MLS move together along training (mean r of their logs)",
    "A higher learning rate ends flatter (r of log rate, log S)",
    "A smaller batch ends flatter (r of log batch size, log S)",
    "mls goes with bound_c (r of logs)",
    "nmls goes with nmls_bound (r of logs)",
    "A <= B <= C <= D (share of networks, claimed of all: above 0.95)",
    "C goes with MLS better than D (|r of C| - |r of D|)",
    "local dimensionality is independent of sharpness (|r| at most 0.3)",
    "sharpness goes with MLS more than with the gap (|r of MLS| - |r of gap|)",
    "adaptive_sharpness goes with input_invariant_mls (r of logs)",
    "adaptive_sharpness goes with normalized_mls over families (r, normalized_mls in logs)",
    "sharpness goes with loss_gap within an optimizer (r)",
    (
        "mls orders networks by the gap of the loss better than chance "
        "(mean sign error over environments)"
    ),
    "Random labels end sharper (r of their share, log S, at one learning rate)",
    "Sharpness falls between memorization and generalization (mean change of log10 S)",
)
"""The claims that the README shows, in its order, without the study that they begin with."""
_OF_A_STUDY = r"^([^():]+): (.*)$"
_SHOWN = re.compile(r"(?<=<!-- claims -->\n).*?(?=<!-- end of claims -->)", re.DOTALL)
Notebook = dict[str, Any]
pictures = True
"""Whether charts are drawn; tests, which compare numbers, do without."""


def notebooks() -> list[Path]:
    """Every notebook, in the order of its name."""
    return sorted(HERE.glob("*.ipynb"))


def execute(notebook: Notebook) -> dict[str, Any]:
    """Run the code cells in order, in the folder of the notebooks; outputs go into the cells.

    Returns:
        What the notebook's names stand for at its end.
    """
    namespace: dict[str, Any] = {"__name__": "__main__"}
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    with contextlib.chdir(HERE):
        for number, cell in enumerate(cells, 1):
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                shown = _run("".join(cell["source"]), namespace)
            cell["execution_count"] = number
            cell["outputs"] = [*_of_text(printed.getvalue()), *_of_value(shown, number)]
    return namespace


def _run(source: str, namespace: dict[str, Any]) -> Any:
    """Execute a cell; the value of its last line, if that is an expression."""
    tree = ast.parse(source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "<cell>", "exec"), namespace)
    if last is None:
        return None
    return eval(compile(ast.Expression(last.value), "<cell>", "eval"), namespace)


def _of_text(text: str) -> Iterator[dict[str, Any]]:
    if text:
        yield {"output_type": "stream", "name": "stdout", "text": text.splitlines(keepends=True)}


def _of_value(value: Any, number: int) -> Iterator[dict[str, Any]]:
    if value is None:
        return
    shown = {"execution_count": number, "metadata": {}, "output_type": "execute_result"}
    yield {**shown, "data": _shown(value) or {"text/plain": repr(value).splitlines(True)}}


def _shown(value: Any) -> dict[str, Any] | None:
    """A chart as a picture that shows without scripts, a table as HTML beside its text."""
    if isinstance(value, alt.TopLevelMixin):
        if not pictures:
            value.to_dict()
            return {"text/plain": ["a chart"]}
        picture = vl_convert.vegalite_to_png(value.to_dict(), scale=1.5)
        return {"image/png": base64.b64encode(picture).decode(), "text/plain": ["a chart"]}
    if isinstance(value, pl.DataFrame):
        return {
            "text/html": value._repr_html_().splitlines(True),
            "text/plain": str(value).splitlines(True),
        }
    return None


def main(names: list[str]) -> int:
    """Execute the notebooks named, or all; with all, write the claims."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with pl.Config(
        tbl_rows=60, tbl_cols=20, fmt_str_lengths=200, tbl_width_chars=200, float_precision=3
    ):
        claims = []
        for path in notebooks():
            if names and path.stem not in names:
                continue
            notebook = json.loads(path.read_text(encoding="utf-8"))
            namespace = execute(notebook)
            text = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
            path.write_text(text, encoding="utf-8")
            if isinstance(found := namespace.get("claims"), pl.DataFrame):
                claims.append(found)
            sys.stdout.write(f"{path.name}\n")
    if not names:
        together = pl.concat([CLAIMS_SCHEMA.to_frame(), *claims])
        together.write_csv(CLAIMS)
        PAGE.write_text(page(together), encoding="utf-8")
        README.write_text(with_claims(README.read_text(encoding="utf-8"), together), "utf-8")
    return 0


def page(claims: pl.DataFrame) -> str:
    """The table of claims in Markdown, a section a notebook."""
    lines = [
        "# Claims, and what our studies say of them",
        "",
        "Made by `make notebooks`, a section for each of `notebooks/` that ends in claims.",
        "A verdict follows from the interval alone: it agrees where the whole interval lies where",
        "the claim says, disagrees where none of it does, and cannot tell otherwise.",
        f"{counts(claims)} The number, its region or the study of an exploratory claim was chosen",
        "after results had been seen: its interval says less than it seems to.",
    ]
    for (notebook,), rows in claims.group_by("notebook", maintain_order=True):
        lines += ["", f"## {notebook}", ""]
        lines += [
            "| claim | source | estimate | interval | networks | verdict |",
            "|" + " --- |" * 6,
        ]
        for row in rows.to_dicts():
            cells = (_cell(row["claim"]), row["source"], *_found(row))
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def with_claims(readme: str, claims: pl.DataFrame) -> str:
    """The README with its table of the main claims: a row a claim, a line in it for each study."""
    named = claims.with_columns(
        pl.col("claim").str.replace(_OF_A_STUDY, "$2").alias("said"),
        pl.coalesce(pl.col("claim").str.extract(_OF_A_STUDY, 1), "notebook").alias("study"),
    )
    lines = [
        "| claim | study | estimate | interval | networks | verdict |",
        "|" + " --- |" * 6,
    ]
    for claim in MAIN:
        rows = named.filter(said=claim).to_dicts()
        if not rows:
            raise ValueError(f"MAIN names a claim that no notebook makes: {claim}")
        cells = zip(*((row["study"], *_found(row)) for row in rows), strict=True)
        lines.append(f"| {' | '.join([_cell(claim), *map('<br>'.join, cells)])} |")
    table = "\n".join(lines)
    return _SHOWN.sub(lambda _: f"\n{table}\n\n{counts(claims)}\n\n", readme)


def counts(claims: pl.DataFrame) -> str:
    """How many claims agree, disagree and cannot be told, and how many are exploratory."""
    of = dict(claims["verdict"].value_counts().iter_rows())
    return (
        f"Of {claims.height} claims {of.get('agrees', 0)} agree, {of.get('disagrees', 0)} "
        f"disagree, and of {of.get('cannot tell', 0)} one cannot tell; "
        f"{claims['exploratory'].sum()} are exploratory."
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _found(row: dict[str, Any]) -> tuple[str, str, str, str]:
    """Estimate, interval, networks and verdict, as a table shows them."""
    estimate = "none" if row["estimate"] is None else f"{row['estimate']:.2g}"
    interval = "none" if row["low"] is None else f"{row['low']:.2g} to {row['high']:.2g}"
    verdict = f"{row['verdict']}, exploratory" if row["exploratory"] else row["verdict"]
    return estimate, interval, str(row["num_networks"]), verdict


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
