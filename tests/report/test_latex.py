"""LaTeX: what is printed is what was written, and it compiles."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import polars as pl
import pytest

from flatscale.report import ReportPaths, write_study_report
from flatscale.report.content.table_view import table_view
from flatscale.report.render.latex import escape, render_table
from flatscale.stats import Column
from flatscale.stats.tables.declaration import COUNT, TEXT, declare

PDFLATEX = shutil.which("pdflatex")
needs_pdflatex = pytest.mark.skipif(PDFLATEX is None, reason="pdflatex is not installed")


def test_every_special_character_is_escaped() -> None:
    assert str(escape(r"50% of R&D_x #1 {a} ^~\ $")) == (
        r"50\% of R\&D\_\allowbreak{}x \#1 \{a\} \textasciicircum{}\textasciitilde{}"
        r"\textbackslash{} \$"
    )


def test_commands_in_names_do_nothing() -> None:
    assert r"\input" not in str(escape(r"\input{/etc/passwd}"))
    assert str(escape(r"\input")) == r"\textbackslash{}input"


def test_letters_without_a_glyph_become_something_that_has_one() -> None:
    assert str(escape("日本")) == "[U+65E5][U+672C]"
    assert str(escape("ﬁ")) == "fi"
    assert str(escape("é")) == "é"


def test_a_table_is_booktabs_and_says_what_it_leaves_out() -> None:
    frame = pl.DataFrame({"name": [f"n_{i}" for i in range(50)], "n": range(50)})
    table = declare("t", "", Column("name", TEXT, "", "name"), Column("n", COUNT, "", "n"))
    view = table_view(table, frame)
    printed = render_table(view)
    assert all(rule in printed for rule in (r"\toprule", r"\midrule", r"\bottomrule"))
    assert "10 more rows in the data files" in printed
    assert printed.count(r"n\_\allowbreak{}") == 40


@needs_pdflatex
def test_the_report_compiles_as_it_is(full_report: ReportPaths, tmp_path: Path) -> None:
    shutil.copytree(full_report.folder, tmp_path / "report")
    _compile(tmp_path / "report" / full_report.latex.name)


@needs_pdflatex
def test_the_report_of_a_failed_study_compiles(empty_store: Path, tmp_path: Path) -> None:
    _compile(write_study_report(empty_store, out=tmp_path).latex)


@needs_pdflatex
def test_every_printable_character_compiles(tmp_path: Path) -> None:
    characters = [chr(code) for code in range(0x20, 0x2FFF) if chr(code).isprintable()]
    lines = [str(escape("".join(characters[i : i + 40]))) for i in range(0, len(characters), 40)]
    document = tmp_path / "characters.tex"
    head = r"\documentclass{article}\usepackage[T1]{fontenc}\usepackage[utf8]{inputenc}"
    packages = r"\usepackage{textcomp,amssymb}\begin{document}\sloppy "
    document.write_text(f"{head}{packages}\n" + "\n\n".join(lines) + "\n\\end{document}\n")
    _compile(document)


def _compile(document: Path) -> None:
    assert PDFLATEX is not None
    ended = subprocess.run(
        [PDFLATEX, "-interaction=nonstopmode", "-halt-on-error", document.name],
        cwd=document.parent,
        capture_output=True,
        check=False,
        timeout=120,
    )
    log = ended.stdout.decode(errors="replace")
    assert ended.returncode == 0, log[-3000:]
    assert document.with_suffix(".pdf").stat().st_size > 5_000
