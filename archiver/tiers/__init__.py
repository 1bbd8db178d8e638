"""Tiers: walking, watching and safe file operations on a local tree."""
