"""s3: have a bucket tell of its objects, and listen to it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import click

from archiver.cli.invocation import Invocation, pass_invocation
from archiver.cli.output import printable
from archiver.cli.verb import VerbGroup
from archiver.config import S3TierSettings, Settings
from archiver.errors import EXIT_OK

if TYPE_CHECKING:
    from archiver.s3.hook import Change, Hook

_LEAST_DAYS = 30  # before them S3 moves nothing to the classes for rare access
_STYLES = {"+": "green", "-": "red", "@": "cyan"}


@click.group(cls=VerbGroup)
def s3() -> None:
    """Have buckets tell of their objects, listen to them, and serve their images."""


# -- the hook ----------------------------------------------------------------------------------------------------------

_QUEUE = click.option(
    "--queue",
    metavar="NAME|URL|ARN",
    help="Where events go (default: archiver-TIER, made where there is none). An ARN of another kind than a queue of "
    "SQS must be there already.",
)
_PREFIX = click.option("--prefix", metavar="PREFIX", help="Only what begins with it (default: the tier's).")
_DRY = click.option("--dry-run", is_flag=True, help="Change nothing: show what would be.")
_YES = click.option("--yes", "-y", is_flag=True, help="Do not ask.")


@s3.command(
    example="""
    archiver s3 install-hook photos --dry-run
    archiver s3 install-hook photos --transition-days 180 --class GLACIER_IR
    """,
)
@click.argument("target", metavar="TIER|BUCKET")
@click.option(
    "--transition-days",
    type=click.IntRange(min=0),
    metavar="N",
    help="Objects not written for N days go to the colder class, and are archived then; 0 makes no lifecycle rule "
    "(default: the shortest `unused_for` of the rules, at least 30).",
)
@click.option(
    "--class",
    "storage_class",
    default="STANDARD_IA",
    show_default=True,
    metavar="CLASS",
    help="The colder class. One that can be read at once: GLACIER and DEEP_ARCHIVE cannot.",
)
@_QUEUE
@_PREFIX
@_DRY
@_YES
@pass_invocation
def install_hook(
    invocation: Invocation,
    target: str,
    transition_days: int | None,
    storage_class: str,
    queue: str | None,
    prefix: str | None,
    dry_run: bool,
    yes: bool,
) -> int:
    """Have a bucket tell when its objects go cold, come and go.

    Sets up a queue with a dead-letter queue, the bucket's notifications and a lifecycle rule. What is there is read
    first and the difference is shown before anything changes; what is not ours is never touched, and running it again
    changes nothing. `archiver s3 listen` hears what the bucket says.
    """
    settings = invocation.settings
    tier = _tier(settings, target)
    days = _cold_after(settings, tier) if transition_days is None else transition_days
    hook = _hook(tier, queue, prefix, days, storage_class)
    changes = hook.plan()
    applied = _apply(invocation, hook, changes, dry_run, yes)
    url = hook.queue_url() if applied else ""
    invocation.output.json(_Hooked(tier.bucket, applied, url), "hook")
    if applied and url and tier.queue_url != url:
        invocation.output.text(f'Put this into the [[tier]] of bucket {tier.bucket}: queue_url = "{url}"')
    return EXIT_OK


@s3.command(example="archiver s3 remove-hook photos --dry-run")
@click.argument("target", metavar="TIER|BUCKET")
@_QUEUE
@_DRY
@_YES
@pass_invocation
def remove_hook(invocation: Invocation, target: str, queue: str | None, dry_run: bool, yes: bool) -> int:
    """Undo install-hook, and nothing else.

    The rule and the notification of that tier go; the queues go where install-hook made them and no other bucket sends
    there. The difference is shown first.
    """
    tier = _tier(invocation.settings, target)
    hook = _hook(tier, queue, None, 0, "STANDARD_IA")
    applied = _apply(invocation, hook, hook.plan(removing=True), dry_run, yes)
    invocation.output.json(_Hooked(tier.bucket, applied, ""), "hook")
    return EXIT_OK


@dataclass(frozen=True, slots=True)
class _Hooked:
    """What became of a hook."""

    bucket: str
    applied: bool
    queue_url: str


@dataclass(frozen=True, slots=True)
class _Shown:
    """A change as it is printed."""

    part: str
    name: str
    needed: bool
    before: object
    after: object
    note: str


def _tier(settings: Settings, target: str) -> S3TierSettings:
    """The tier of that name, or the only one in the bucket of that name."""
    tiers = [tier for tier in settings.tier if isinstance(tier, S3TierSettings)]
    named = [tier for tier in tiers if tier.name == target] or [tier for tier in tiers if tier.bucket == target]
    if len(named) > 1:
        raise click.UsageError(f"{target} holds several tiers, name one: {', '.join(tier.name for tier in named)}")
    if not named and any(tier.name == target for tier in settings.tier):
        raise click.UsageError(f"{target} is a folder, not a bucket")
    if not named:
        raise click.UsageError(f"{target} is no tier, and no tier lies in a bucket of that name")
    return named[0]


def _hook(tier: S3TierSettings, queue: str | None, prefix: str | None, days: int, storage_class: str) -> Hook:
    from archiver.s3.hook import Wish
    from archiver.s3.hooking import open_hook

    wish = Wish(tier.name, tier.bucket, tier.prefix if prefix is None else prefix, days, storage_class)
    return open_hook(tier, wish, queue or tier.queue_url or f"archiver-{tier.name}")


def _cold_after(settings: Settings, tier: S3TierSettings) -> int:
    waits = [
        max(rule.unused_for, rule.unchanged_for) // timedelta(days=1)
        for rule in settings.rule
        if rule.action != "keep" and (not rule.tiers or tier.name in rule.tiers)
    ]
    return max(_LEAST_DAYS, min(waits, default=180))


def _apply(invocation: Invocation, hook: Hook, changes: Sequence[Change], dry_run: bool, yes: bool) -> bool:
    """Show, ask, do. Whether everything is now as it should be."""
    output = invocation.output
    for change in changes:
        before, after = (json.loads(text) if text else None for text in (change.before, change.after))
        output.json(_Shown(change.part, change.name, change.is_needed, before, after, change.note), "change")
        what = "" if change.is_needed else ": as it should be"
        output.text(f"{change.part} {printable(change.name)}{what}", "bold")
        for line in change.lines():
            output.text(f"  {printable(line)}", _STYLES.get(line[:1], "dim"))
        if change.note and change.is_needed:
            output.text(f"  {change.note}", "yellow")
    if not any(change.is_needed for change in changes):
        return True
    if dry_run:
        return False
    if not yes:
        if output.as_json:
            raise click.UsageError("with --json nobody can be asked: give --yes, or --dry-run")
        click.confirm("Change this?", abort=True, err=True)
    hook.apply(changes)
    return True
