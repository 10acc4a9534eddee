"""MLflow, and nothing else: one writer, on the driver."""

from flatscale.extras import needs

needs("mlflow")
