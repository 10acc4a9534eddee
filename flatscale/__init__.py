"""Large-scale correlation studies of flatness, sharpness and neural representation compression."""

__version__ = "0.1.0"
