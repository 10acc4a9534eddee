"""The Jacobians of the outputs by input, layers and parameters, exact or estimated."""
