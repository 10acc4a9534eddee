"""MLflow, and nothing else: one writer, on the driver."""
