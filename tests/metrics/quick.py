"""Small budgets, so that every metric of the catalog can be measured many times."""

QUICK = {
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
