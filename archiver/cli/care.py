"""doctor, verify, expire, reconcile, rebuild: looking after what is kept."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from archiver.catalog.rows import State
from archiver.cli.invocation import Invocation, pass_invocation
from archiver.cli.output import Column
from archiver.cli.reporter import report
from archiver.cli.verb import VerbCommand
from archiver.config import LocalTierSettings
from archiver.lifecycle.opening import open_site
from archiver.units import parse_size


def _rate(_context: click.Context, _parameter: click.Parameter, value: str | None) -> int | None:
    try:
        return None if value is None else int(str(parse_size(value)))
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command(
    cls=VerbCommand,
    example="""
    archiver doctor
    archiver doctor --json | jq '.checks[] | select(.verdict != "ok")'
    """,
)
@pass_invocation
def doctor(invocation: Invocation) -> int:
    """Check weights, catalog, tiers, disk and clock.

    Changes nothing. Proves among other things that every live record's weights are in the vault and whole, and finds
    out what each tier's filesystem can do. Exits with 1 when something is worth a look and with 7 when something is
    broken.
    """
    from archiver.checks import Verdict
    from archiver.doctor import examine

    report = examine(invocation.config_path)
    invocation.output.json(report)
    styles = {Verdict.OK: "ok", Verdict.WARNING: "warning", Verdict.BROKEN: "BROKEN"}
    rows = [[check.subject, styles[check.verdict], check.finding] for check in report.checks]
    invocation.output.table([Column("what"), Column("verdict"), Column("found")], rows)
    for check in report.checks:
        if check.hint:
            invocation.output.text(f"{check.subject}: {check.hint}")
    return report.exit_code


@click.command(
    cls=VerbCommand,
    example="""
    archiver verify
    archiver verify --decode --rate 50MB
    """,
)
@click.option("--decode", is_flag=True, help="Also generate every image, which takes as long as recalling it would.")
@click.option(
    "--rate",
    callback=_rate,
    metavar="SIZE",
    help="Read at most this many bytes a second (default: the configuration's).",
)
@click.option("--restart", is_flag=True, help="Begin anew instead of going on where the last run was stopped.")
@pass_invocation
def verify(invocation: Invocation, decode: bool, rate: int | None, restart: bool) -> int:
    """Prove that records, placeholders and held originals are whole.

    Reads every placeholder and compares its record with the catalog's, entropy-decodes every record, and hashes every
    held original. Can be stopped at any time; the next run goes on from there.
    """
    from archiver.lifecycle.verify import verify as run

    kept = (State.RECORDED, State.RELEASED, State.RECALLED)
    pace = invocation.settings.schedule.verify_bytes_per_second if rate is None else rate
    with open_site(invocation.settings) as site:
        return report(
            invocation,
            "verifying",
            lambda listener, stop: run(
                site, bytes_per_second=pace, restart=restart, decode=decode, listener=listener, stop=stop
            ),
            total=sum(tier.of(state).files for tier in site.catalog.summary() for state in kept),
        )


@click.command(cls=VerbCommand, example="archiver expire")
@pass_invocation
def expire(invocation: Invocation) -> int:
    """Unlink held originals whose grace period is over.

    This is the moment from which an original is gone for good. It is refused for a file whose placeholder, record or
    weights are not whole. The daemon does it by itself.
    """
    from archiver.lifecycle.expire import expire as run

    with open_site(invocation.settings) as site:
        return report(
            invocation, "expiring", lambda listener, stop: run(site, datetime.now(UTC), listener=listener, stop=stop)
        )


@click.command(cls=VerbCommand, example="archiver reconcile")
@pass_invocation
def reconcile(invocation: Invocation) -> int:
    """Finish or take back what a crash left.

    The daemon does it at every start, and archive, recall and undo do it in the tiers they act on. Running it twice
    changes nothing.
    """
    from archiver.lifecycle.reconcile import reconcile as run

    with open_site(invocation.settings) as site:
        return report(invocation, "reconciling", lambda listener, _stop: run(site, listener))


@click.command(
    cls=VerbCommand,
    example="archiver rebuild\narchiver rebuild --accept photos   # its disk was replaced by a copy",
)
@click.option("--accept", "accepted", metavar="TIER", multiple=True, help="Take what stands at its root now for it.")
@pass_invocation
def rebuild(invocation: Invocation, accepted: tuple[str, ...]) -> int:
    """Build the catalog anew from placeholders alone.

    For the day the catalog is lost: makes an empty one where there is none, scans every tier, opens each image and
    takes up those that carry a record, with the originals still held for them. Safe on a catalog that is only partly
    lost, and what sets one right that was put back from a backup. A tier that was archived with another catalog is this
    one's from then on.

    A tier is one folder of one filesystem, so that a disk that is not mounted is never taken for an empty one. Where it
    was copied to a new disk (with `.archiver`), restored or rolled back, --accept takes the new one for it: pins and
    history stay, what is missing there is gone.
    """
    from archiver.catalog.schema import upgrade
    from archiver.lifecycle.rebuild import rebuild as run

    folders = {tier.name for tier in invocation.settings.tier if isinstance(tier, LocalTierSettings)}
    if unknown := set(accepted) - folders:
        raise click.BadParameter(f"no folder is configured as tier {', '.join(sorted(unknown))}", param_hint="--accept")
    upgrade(invocation.settings.catalog_url)
    with open_site(invocation.settings) as site:
        return report(
            invocation, "rebuilding", lambda listener, stop: run(site, accept=accepted, listener=listener, stop=stop)
        )
