"""Cold storage for photographs: semantic records instead of pixels, regenerated when opened."""
