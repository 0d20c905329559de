"""Fungible: serve on any accelerator, prove quality held, know what every token costs."""

__version__ = "0.1.0"

__all__ = ["__version__"]
