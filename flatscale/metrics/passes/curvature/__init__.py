"""The Hessian of the loss."""
