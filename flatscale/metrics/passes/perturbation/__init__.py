"""The loss under perturbed weights and inputs."""
