"""Small budgets, so that every metric of the catalog can be measured many times."""

from flatscale.metrics.passes.corruptions import CORRUPTIONS

RANGE = {"low": -8.0, "high": 8.0}
"""Where the inputs of the tests' networks lie."""
CORRUPTED = {f"{kind}_accuracy": {**RANGE, "severities": (1, 5)} for kind in CORRUPTIONS}

QUICK = {
    **CORRUPTED,
    "corruption_accuracy": {**RANGE, "severities": (3,)},
    "pgd_accuracy": {"radius": 0.3, "num_steps": 2},
    "pgd_loss": {"radius": 0.3, "num_steps": 2},
    "prunable_share": {"num_levels": 20},
    "spectral_density": {"num_probes": 2, "max_probes": 2, "num_steps": 4},
    "hessian_trace": {"sketch_size": 2, "max_products": 8},
    "reparametrization_check": {"metrics": ("mls", "sharpness")},
    "worst_case_sharpness": {"num_steps": 2},
    "pac_bayes_bound": {"num_steps": 2},
    "keskar_sharpness": {"num_steps": 2},
    "finite_mls": {"num_steps": 3},
    "adaptive_sharpness": {"max_evaluations": 8, "points_per_perturbation": 2},
    "average_sharpness": {"max_evaluations": 8, "points_per_perturbation": 2},
}
