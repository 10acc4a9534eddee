"""LaTeX that compiles as it is with pdflatex: text escaped, tables in booktabs."""

from __future__ import annotations

import unicodedata

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from flatscale.report.charts.draw import PaperFigure
from flatscale.report.content.report_content import Content
from flatscale.report.content.section import Section
from flatscale.report.content.table_view import Cell, TableView
from flatscale.report.words.summary import meta_of, summary_of

MAX_ROWS = 40
"""Rows of a table in the paper's files; the whole table is on the page and in the data files."""

_SPECIAL = {
    "\\": r"\textbackslash{}",
    **{sign: "\\" + sign for sign in "{}$&#%"},
    "_": r"\_\allowbreak{}",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "'": r"{'}",
    "`": r"\textasciigrave{}",
    "-": r"{-}",
    "–": "--",
    "—": "---",
    "…": r"\ldots{}",
    "\u202f": r"\,",
    "\u00a0": "~",
}
_SIGNS = "αβγδεζηθκλμνξπρστφχψωΔΦΨΩΘΛΠ‖√∇∂Σ∑∏≤≥≠≈±×·∘∞∈→⟨⟩ℓ"
_COMMANDS = (
    "alpha beta gamma delta epsilon zeta eta theta kappa lambda mu nu xi pi rho sigma tau phi chi "
    "psi omega Delta Phi Psi Omega Theta Lambda Pi Vert surd nabla partial Sigma sum prod le ge "
    "neq approx pm times cdot circ infty in to langle rangle ell"
)
_MATH = {
    **{s: f"\\{command}" for s, command in zip(_SIGNS, _COMMANDS.split(), strict=True)},
    **{chr(0x2080 + digit): f"_{digit}" for digit in range(10)},
    **{sign: f"^{digit}" for digit, sign in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")},
    "⁻": "^-",
    "ᵀ": "^T",
    "−": "-",
    "½": r"\frac12",
}


def escape(text: str) -> Markup:
    """Text as LaTeX that prints it and does nothing else.

    Characters pdflatex has no glyph for become the nearest it has, or their code point in brackets.
    """
    return Markup("".join(_escape_character(character) for character in text))


def _escape_character(character: str) -> str:
    if character in _SPECIAL:
        return _SPECIAL[character]
    if character in _MATH:
        return rf"\ensuremath{{{_MATH[character]}}}"
    if character.isspace():
        return " "
    if character.isascii():
        return character if character.isprintable() else ""
    # T1 has the letters of Latin-1 and Latin Extended-A, but for these.
    is_letter = unicodedata.category(character) in ("Ll", "Lu")
    if is_letter and ord(character) < 0x17F and character not in "ĦħĸĿŀŉŦŧ":
        return character
    nearest = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    if nearest and nearest != character:
        return "".join(_escape_character(part) for part in nearest)
    return f"[U+{ord(character):04X}]"


def render_table(view: TableView) -> str:
    """A `tabular` in booktabs style, no wider than the page, with at most MAX_ROWS rows."""
    keep = [i for i in range(len(view.headers)) if any(row[i].text for row in view.rows)]
    spec = "".join(_column(view, i) for i in keep)
    lines = [
        f"% {' '.join(view.title.split())}",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{{spec}}}",
        r"\toprule",
        " & ".join(str(escape(view.headers[i].title)) for i in keep) + r" \\",
        r"\midrule",
    ]
    for number, row in enumerate(view.rows[:MAX_ROWS]):
        cells = [_cell(row[i], bold=number in view.emphasised) for i in keep]
        lines.append(" & ".join(cells) + r" \\")
    left = len(view.rows) - MAX_ROWS
    if left > 0:
        lines.append(
            rf"\multicolumn{{{len(keep)}}}{{l}}{{\emph{{{left} more rows in the data files}}}} \\"
        )
    lines += [r"\bottomrule", r"\end{tabular}}", ""]
    return "\n".join(lines)


def _column(view: TableView, index: int) -> str:
    if view.headers[index].is_number:
        return "r"
    longest = max((len(row[index].text) for row in view.rows[:MAX_ROWS]), default=0)
    return r">{\raggedright\arraybackslash}p{5cm}" if longest > 45 else "l"


def _cell(cell: Cell, *, bold: bool) -> str:
    text = str(escape(cell.text))
    return rf"\textbf{{{text}}}" if bold and text else text


def render_document(
    content: Content,
    sections: tuple[Section, ...],
    tables: tuple[TableView, ...],
    figures: tuple[PaperFigure, ...],
) -> str:
    """`report.tex`: the summary, every answer, figure and table, each from its own file."""
    environment = Environment(
        loader=PackageLoader("flatscale.report.render"),
        undefined=StrictUndefined,
        autoescape=False,
        finalize=lambda value: value if isinstance(value, Markup) else escape(str(value)),
        block_start_string="<%",
        block_end_string="%>",
        variable_start_string="<<",
        variable_end_string=">>",
        comment_start_string="<#",
        comment_end_string="#>",
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # Names of files come from this package and are not text.
    environment.filters["file"] = Markup
    environment.filters["sentence"] = lambda title: title if title[-1] in "?!" else f"{title}."
    return environment.get_template("report.tex.j2").render(
        content=content,
        meta=meta_of(content),
        summary=summary_of(content),
        answers=[s for s in sections if s.sentence] if content.analysis is not None else (),
        tables=tables,
        figures=figures,
    )
