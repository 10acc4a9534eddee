"""Statistics of a study: within and across families, outlier clusters, errors, multiplicity."""

from flatscale.stats.correlation import STATISTICS, statistic
from flatscale.stats.findings import FINDINGS_SCHEMA, Estimate, Finding, findings_frame
from flatscale.stats.pair import analyze, correlate
from flatscale.stats.study import StudyAnalysis, StudyDesign, analyze_study
from flatscale.stats.tables import TABLES, Column, Table

__all__ = [
    "FINDINGS_SCHEMA",
    "STATISTICS",
    "TABLES",
    "Column",
    "Estimate",
    "Finding",
    "StudyAnalysis",
    "StudyDesign",
    "Table",
    "analyze",
    "analyze_study",
    "correlate",
    "findings_frame",
    "statistic",
]
