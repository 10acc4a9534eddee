"""flatscale: large-scale correlation studies of flatness, sharpness and compression of neural networks."""

__version__ = "0.1.0"
