"""The report of a study: a page to explore, files for a paper, every number for other programs."""

from flatscale.report.render.write import ReportPaths, write_study_report, write_table_report

__all__ = ["ReportPaths", "write_study_report", "write_table_report"]
