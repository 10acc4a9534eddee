"""Statistics of a study: within and across families, outlier clusters, errors, multiplicity."""

from flatscale.stats.claims import (
    CLAIMS_SCHEMA,
    Claim,
    claims_table,
    correlation_of,
    difference_of_sizes,
    mean_estimate,
    share_estimate,
    verdict,
)
from flatscale.stats.design import StudyDesign
from flatscale.stats.estimators.bootstrap import bca_interval, bca_intervals
from flatscale.stats.estimators.comparison import Comparison, compare_metrics
from flatscale.stats.estimators.correlation import STATISTICS, estimate_correlation, statistic
from flatscale.stats.estimators.families import (
    between_family,
    family_jackknife,
    per_family,
    repeated_measures,
    within_family,
)
from flatscale.stats.estimators.granulated import GranulatedKendall, granulated_kendall
from flatscale.stats.estimators.measurement_error import disattenuated, reliability
from flatscale.stats.estimators.mixed_model import MixedFit, mixed_model
from flatscale.stats.estimators.multiplicity import add_q_values, adjust
from flatscale.stats.estimators.mutual_information import (
    ConditionalInformation,
    conditional_information,
)
from flatscale.stats.estimators.partial import partial_correlation
from flatscale.stats.estimators.permutation import mantel, permutation_within
from flatscale.stats.estimators.robust_line import RobustLine, robust_line
from flatscale.stats.estimators.sign_error import SignErrors, sign_errors
from flatscale.stats.estimators.synthesis import Synthesis, synthesize
from flatscale.stats.findings import FINDINGS_SCHEMA, Estimate, Finding, findings_frame
from flatscale.stats.joined_tables import OutcomeJoin, family_from_name, join_outcomes, read_table
from flatscale.stats.pair import analyze, correlate
from flatscale.stats.planned_size import (
    number_for_correlation,
    number_for_mean,
    number_for_share,
)
from flatscale.stats.sample import Sample, select_pair
from flatscale.stats.study import StudyAnalysis, analyze_study
from flatscale.stats.tables.declaration import TABLES, Column, Table, study_table
from flatscale.stats.tables.flagged_clusters import family_scan

__all__ = [
    "CLAIMS_SCHEMA",
    "FINDINGS_SCHEMA",
    "STATISTICS",
    "TABLES",
    "Claim",
    "Column",
    "Comparison",
    "ConditionalInformation",
    "Estimate",
    "Finding",
    "GranulatedKendall",
    "MixedFit",
    "OutcomeJoin",
    "RobustLine",
    "Sample",
    "SignErrors",
    "StudyAnalysis",
    "StudyDesign",
    "Synthesis",
    "Table",
    "add_q_values",
    "adjust",
    "analyze",
    "analyze_study",
    "bca_interval",
    "bca_intervals",
    "between_family",
    "claims_table",
    "compare_metrics",
    "conditional_information",
    "correlate",
    "correlation_of",
    "difference_of_sizes",
    "disattenuated",
    "estimate_correlation",
    "family_from_name",
    "family_jackknife",
    "family_scan",
    "findings_frame",
    "granulated_kendall",
    "join_outcomes",
    "mantel",
    "mean_estimate",
    "mixed_model",
    "number_for_correlation",
    "number_for_mean",
    "number_for_share",
    "partial_correlation",
    "per_family",
    "permutation_within",
    "read_table",
    "reliability",
    "repeated_measures",
    "robust_line",
    "select_pair",
    "share_estimate",
    "sign_errors",
    "statistic",
    "study_table",
    "synthesize",
    "verdict",
    "within_family",
]
