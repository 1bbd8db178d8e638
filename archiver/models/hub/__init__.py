"""Hub profiles: weights of others, pulled once, pinned by hash, behind the same decoder as the embedded ones."""
