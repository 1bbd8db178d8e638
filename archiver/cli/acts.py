"""archive, recall, release, undo: the acts on images."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from threading import Event

import click

from archiver.cli.invocation import Invocation, pass_invocation
from archiver.cli.reporter import report
from archiver.cli.verb import VerbCommand
from archiver.cli.where import where
from archiver.lifecycle.opening import open_site
from archiver.lifecycle.outcome import Listener, Tally
from archiver.lifecycle.site import Site
from archiver.tiers.protocol import Tier, Where


@click.command(
    cls=VerbCommand,
    example="""
    archiver archive                          # all that the rules call cold
    archiver archive photos --limit 100       # one tier, at most 100 images
    archiver archive /srv/photos/2009         # this folder now, whatever its age
    archiver archive s3://photos/2009         # the same in a bucket
    archiver archive --dry-run                # the same as archiver plan
    """,
)
@click.argument("targets", metavar="[TIER|PATH]...", nargs=-1)
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Stop after N images.")
@click.option("--dry-run", is_flag=True, help="Change nothing: show the plan.")
@pass_invocation
def archive(invocation: Invocation, targets: tuple[str, ...], limit: int | None, dry_run: bool) -> int:
    """Record cold images and release their space.

    Each image is encoded, decoded for trial and measured against the rule's gate; the record is made durable; only
    then the original moves to the holding area and a placeholder takes its place. An image that fails a check stays
    as it is, with the reason in the catalog.

    Without a target the rules decide, with a tier they decide for that tier. A PATH is archived now, whatever its
    age; every safety check and gate still holds.
    """
    names, paths = _targets(invocation, targets)
    if dry_run:
        from archiver.cli.scan import show_plan

        return show_plan(invocation, names, paths, limit)
    from archiver.lifecycle.archive import archive as run

    with open_site(invocation.settings) as site:
        return _report(
            invocation,
            site,
            site.concerned(names, paths),
            "archiving",
            lambda listener, stop: run(site, tiers=names, paths=paths, limit=limit, listener=listener, stop=stop),
        )


@click.command(
    cls=VerbCommand,
    example="""
    archiver recall /srv/photos/2009/rome.jpg
    archiver recall /srv/photos/2009
    """,
)
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=where)
@pass_invocation
def recall(invocation: Invocation, paths: tuple[Where, ...]) -> int:
    """Regenerate released images in place.

    Each gets its length, dimensions, metadata and times back and an image of the same meaning, labelled as synthetic.
    It is not the original: within the grace period `archiver undo` gives that back.
    """
    from archiver.lifecycle.recall import recall as run

    with open_site(invocation.settings) as site:
        return _report(
            invocation,
            site,
            site.concerned(None, paths),
            "recalling",
            lambda listener, stop: run(site, paths, listener=listener, stop=stop),
        )


@click.command(
    cls=VerbCommand,
    example="""
    archiver undo /srv/photos/2009/rome.jpg
    archiver undo /srv/photos/2009 --to /tmp/originals   # copies, elsewhere
    """,
)
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=where)
@click.option(
    "--to",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="Copy the originals there instead and leave the files as they are.",
)
@pass_invocation
def undo(invocation: Invocation, paths: tuple[Where, ...], to: Path | None) -> int:
    """Bring original bytes back within the grace period.

    The held original is checked against its hash and exchanged with the placeholder or the recalled image. A file
    that somebody has written to since is left alone: use --to.
    """
    from archiver.lifecycle.undo import undo as run

    with open_site(invocation.settings) as site:
        return _report(
            invocation,
            site,
            site.concerned(None, paths),
            "undoing",
            lambda listener, stop: run(site, paths, to=to, listener=listener, stop=stop),
        )


def _report(
    invocation: Invocation,
    site: Site,
    tiers: Iterable[Tier],
    what: str,
    run: Callable[[Listener, Event], Tally],
) -> int:
    """As `report`, once what a crash left in those tiers is settled."""
    from archiver.lifecycle.reconcile import settle_first

    return report(
        invocation,
        what,
        lambda listener, stop: settle_first(site, tiers, listener).include(run(listener, stop)),
    )


def _targets(invocation: Invocation, targets: tuple[str, ...]) -> tuple[list[str] | None, list[Where] | None]:
    """A bare word that names a tier is that tier; anything else is a path. Both at once are refused, and so is a word
    that could be meant either way.
    """
    known = {tier.name: tier for tier in invocation.settings.tier}
    names = [target for target in targets if target in known]
    for name in names:
        here = Path(name)
        tier = known[name]
        if here.exists() and not (tier.kind == "local" and here.resolve() == tier.path.resolve()):
            raise click.UsageError(f"{name} is a tier, and something else here: write ./{name} for what is here")
    paths = [where(target) for target in targets if target not in known]
    if names and paths:
        raise click.UsageError(f"{paths[0]} is no tier: name tiers or paths, not both")
    return names or None, paths or None
