"""The life of `archiver s3 gateway`: what it opens, who may reach it, until when it answers."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack

from archiver import http_server
from archiver.catalog import Catalog
from archiver.config import S3TierSettings, Settings
from archiver.decoder.opening import open_engine
from archiver.errors import CatalogOutdated, CatalogTooNew, CatalogUnavailable, GatewayUnguarded, GatewayWithoutTier
from archiver.formats import Limits
from archiver.http_server import Listening
from archiver.s3.cache import ImageCache
from archiver.s3.gateway import create_app
from archiver.s3.signing import Guard, read_keys, read_token
from archiver.s3.tier import S3Tier

_LOG = logging.getLogger("archiver.s3.gateway")


def serve(settings: Settings, ready: Callable[[str], None]) -> None:
    """Answer readers of all buckets until SIGTERM or SIGINT; `ready` hears the address once it listens.

    Raises GatewayWithoutTier, GatewayUnguarded, ConfigInvalid (keys, token, certificate), SystemRefused (the address is
    taken), CacheTaken, and what `open_engine` raises.
    """
    gateway = settings.gateway
    tiers = [S3Tier(tier) for tier in settings.tier if isinstance(tier, S3TierSettings)]
    if not tiers:
        raise GatewayWithoutTier
    at = Listening(gateway.listen, gateway.certificate_file, gateway.key_file)
    guard = Guard(
        read_keys(gateway.keys_file) if gateway.keys_file else {},
        read_token(gateway.token_file) if gateway.token_file else None,
    )
    if guard.is_open and not at.reaches_only_this_machine:
        raise GatewayUnguarded(address=gateway.listen)
    with ExitStack() as resources:
        listener = resources.enter_context(http_server.bind(at))
        cache = resources.enter_context(ImageCache(gateway.cache, gateway.cache_size))
        catalog = _catalog(settings, resources)
        engine = open_engine(settings)
        limits = Limits(pixels=settings.limits.pixels, file_size=settings.limits.file_size)
        app = create_app(tiers, engine, cache, catalog, guard, gateway, limits)
        http_server.serve(app, at, listener, ready)


def _catalog(settings: Settings, resources: ExitStack) -> Catalog | None:
    """The catalog where there is one: objects tell what they were, and can be read without."""
    try:
        return resources.enter_context(Catalog.open(settings.catalog_url))
    except (CatalogUnavailable, CatalogOutdated, CatalogTooNew) as error:
        _LOG.warning("without a catalog accesses are not noted, and packed objects not found: %s", error.message)
        return None
