"""Model profiles: the pinned weights that encode and decode records."""
