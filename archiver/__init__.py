"""Cold storage for photographs: semantic records instead of pixels, regenerated when opened."""

__version__ = "0.1.0"
