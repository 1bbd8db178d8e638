"""A pin, and the releases that looked at the pins just before it."""

from __future__ import annotations

import os
from contextlib import suppress

from archiver.errors import Pinned, TierUnreachable
from archiver.lifecycle import journal
from archiver.lifecycle.journal import Intent
from archiver.lifecycle.site import Site
from archiver.lifecycle.subject import Subject
from archiver.tiers import fileops
from archiver.tiers.listing import AREA
from archiver.tiers.local import LocalTier
from archiver.tiers.protocol import Where


def pin(site: Site, path: Where, *, subtree: bool = False) -> None:
    """Pin a file, or with `subtree` a folder and all below it: once this returns, nothing of it is being released.

    A release looks at the pins again once it is in the journal. Whoever did so before this pin is still there, and is
    waited for; in a bucket it is not. Raises NotInAnyTier, TierNotScanned, CatalogUnavailable, OSError.
    """
    located = site.locate(path)
    site.catalog.pin(located.tier_id, located.relative, subtree=subtree)

    def is_concerned(intent: Intent) -> bool:
        below = not located.relative or intent.path.startswith(f"{located.relative}/")
        return intent.act in ("release", "rerelease") and (intent.path == located.relative or (subtree and below))

    if isinstance(located.tier, LocalTier):
        # Nobody releases where there is no journal, or no tier; and who may not look there must do without.
        with suppress(FileNotFoundError, PermissionError, TierUnreachable):
            journal_fd = fileops.open_directory(located.tier.root_fd, f"{AREA}/journal")
            try:
                journal.outlast(journal_fd, is_concerned)
            finally:
                os.close(journal_fd)


def refuse_pinned(site: Site, subject: Subject) -> None:
    """Raises Pinned for what a user wants to keep as it is."""
    if site.catalog.is_pinned(subject.row.tier_id, subject.row.path):
        raise Pinned(path=subject.path)
