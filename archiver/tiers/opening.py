"""From the settings of a tier to the tier."""

from __future__ import annotations

from archiver.config import LocalTierSettings, TierSettings
from archiver.s3.tier import S3Tier
from archiver.tiers.local import LocalTier
from archiver.tiers.protocol import Tier


def open_tier(settings: TierSettings) -> Tier:
    """The tier of some settings; nothing is opened, nor boto3 imported, before it is used."""
    return LocalTier(settings) if isinstance(settings, LocalTierSettings) else S3Tier(settings)
