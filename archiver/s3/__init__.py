"""Buckets as tiers; nothing outside of this package knows boto3."""
