"""audit: the list of every act."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import click

from archiver.catalog.rows import AuditRow
from archiver.cli.invocation import Invocation, pass_invocation
from archiver.cli.output import Column, human_time
from archiver.cli.verb import VerbCommand
from archiver.cli.where import where
from archiver.lifecycle.opening import open_site
from archiver.lifecycle.site import Site
from archiver.tiers.protocol import Where
from archiver.units import parse_duration


@dataclass(frozen=True, slots=True)
class Line:
    """An act as it is printed."""

    id: int
    at: datetime
    act: str
    tier: str
    path: str
    rule: str
    record_id: int | None
    detail: str


def _since(_context: click.Context, _parameter: click.Parameter, value: str | None) -> timedelta | None:
    try:
        span = None if value is None else parse_duration(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    return span if isinstance(span, timedelta) else None


@click.command(
    cls=VerbCommand,
    example="""
    archiver audit                          # the last 50 acts
    archiver audit --since 7d --limit 0     # all of a week
    archiver audit /srv/photos/rome.jpg     # all that ever happened to a file
    """,
)
@click.argument("path", required=False, type=where)
@click.option("--since", callback=_since, metavar="SPAN", help="Only what happened within this time, as 12h or 7d.")
@click.option("--limit", type=click.IntRange(min=0), default=50, show_default=True, metavar="N", help="0 for all.")
@pass_invocation
def audit(invocation: Invocation, path: Where | None, since: timedelta | None, limit: int) -> int:
    """List every act: what, when, by which rule.

    Newest first. Rows of the audit are only ever added.
    """
    with open_site(invocation.settings, readonly=True) as site:
        located = site.locate(path) if path is not None else None
        rows = site.catalog.audit_rows(
            tier_id=located.tier_id if located else None,
            path=located.relative if located else None,
            since=int((datetime.now(UTC) - since).timestamp()) if since is not None else None,
            limit=limit or None,
        )
        lines = (_line(site, row) for row in rows)
        if invocation.as_json:
            for line in lines:
                invocation.output.json(line, "act")
        else:
            columns = [Column(title) for title in ("when", "act", "tier", "path", "rule", "detail")]
            cells = ([human_time(one.at), one.act, one.tier, one.path, one.rule, one.detail] for one in lines)
            invocation.output.table(columns, cells)
    return 0


def _line(site: Site, row: AuditRow) -> Line:
    tier = next((name for name, tier_id in site.tier_ids.items() if tier_id == row.tier_id), "")
    at = datetime.fromtimestamp(row.at, UTC)
    return Line(row.id, at, row.act.label, tier, row.path or "", row.rule, row.record_id, row.detail)
