"""Tables, queries, audit and counters: the only place that speaks SQL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from archiver.catalog.catalog import Catalog

__all__ = ["Catalog"]


def __getattr__(name: str) -> Any:
    # SQLAlchemy takes a quarter of a second to import; archiver.catalog.quick has to do without it.
    if name == "Catalog":
        from archiver.catalog.catalog import Catalog

        return Catalog
    raise AttributeError(name)
