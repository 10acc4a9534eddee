"""The report of a study: a page to explore, files for a paper, every number for other programs."""

from flatscale.report.content.report_content import Content
from flatscale.report.content.section import Point, Section, section
from flatscale.report.content.table_view import TableView, table_view
from flatscale.report.render.write import (
    ReportPaths,
    write_study_report,
    write_table_report,
    write_table_study,
)

__all__ = [
    "Content",
    "Point",
    "ReportPaths",
    "Section",
    "TableView",
    "section",
    "table_view",
    "write_study_report",
    "write_table_report",
    "write_table_study",
]
