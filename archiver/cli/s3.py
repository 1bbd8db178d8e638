"""s3: have a bucket tell of its objects, and listen to it."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from archiver.cli.invocation import Invocation, interruptible, pass_invocation
from archiver.cli.verb import VerbGroup
from archiver.config import S3TierSettings, Settings
from archiver.errors import EXIT_OK, ArchiverError, ObjectsNotInstalled, ServerNotInstalled

if TYPE_CHECKING:
    from archiver.s3.hook import Change, Hook

_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+):[0-9]{1,5}")
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
    try:
        from archiver.s3.hook import Wish
        from archiver.s3.hooking import open_hook
    except ImportError as error:
        raise _not_installed(error) from error

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
        output.text(f"{change.part} {change.name}{what}", "bold")
        for line in change.lines():
            output.text(f"  {line}", _STYLES.get(line[:1], "dim"))
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


# -- the gateway -------------------------------------------------------------------------------------------------------


@s3.command(
    example="""
    archiver s3 gateway
    aws s3 cp --endpoint-url http://127.0.0.1:8466 s3://family-photos/2009/rome.jpg .
    """,
)
@pass_invocation
def gateway(invocation: Invocation) -> int:
    """Serve the images of buckets, released ones too.

    Answers GET and HEAD for the buckets of all tiers, as [gateway] says. Resident objects are passed on; a released one
    is generated when it is first read, and kept in a cache. ETag, length and time stay those of the original. Nothing
    is written to a bucket: `archiver recall s3://...` does that. Stays in the foreground; SIGTERM finishes what is
    under way and stops.
    """
    from archiver import logs
    from archiver.notify import Notifier

    try:
        from archiver.s3 import serving
    except ImportError as error:
        raise _not_installed(error) from error
    logs.configure(invocation.settings.log)

    def ready(address: str) -> None:
        invocation.output.json({"address": address}, "gateway")
        invocation.output.text(f"serving buckets at {address}")
        sys.stdout.flush()  # into a file or a pipe, too
        Notifier().ready(f"serving buckets at {address}")

    serving.serve(invocation.settings, ready)
    return EXIT_OK


def _not_installed(error: ImportError) -> ArchiverError:
    missing = (error.name or str(error)).partition(".")[0]
    return ObjectsNotInstalled() if missing in ("boto3", "botocore") else ServerNotInstalled(missing=missing)


# -- listening ---------------------------------------------------------------------------------------------------------

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@s3.command(
    example="""
    archiver s3 listen
    archiver s3 listen --once                # take in what waits, and end
    archiver s3 listen --http 0.0.0.0:8467 --token-file /etc/archiver/token
    systemctl enable --now archiver-s3-listen      # the same as a service
    """,
)
@click.option("--tier", "tiers", multiple=True, metavar="NAME", help="Only this tier; may be given again.")
@click.option("--once", is_flag=True, help="End when the queues are empty.")
@click.option("--http", metavar="HOST:PORT", help="Take events over HTTP, from stores without queues.")
@click.option("--token-file", type=_FILE, metavar="FILE", help="With --http: the token that senders must show.")
@click.option("--certificate-file", type=_FILE, metavar="FILE", help="With --http: a certificate, for HTTPS.")
@click.option("--key-file", type=_FILE, metavar="FILE", help="With --http: the certificate's key.")
@pass_invocation
def listen(
    invocation: Invocation,
    tiers: tuple[str, ...],
    once: bool,
    http: str | None,
    token_file: Path | None,
    certificate_file: Path | None,
    key_file: Path | None,
) -> int:
    """Hear what buckets tell of their objects.

    What was written or deleted is looked at and noted in the catalog; what a lifecycle rule moved to a colder class,
    and the rules are for but for its age, is archived. A message leaves the queue when that is done: lost, doubled or
    late messages change nothing, and the periodic scan stays the truth. SIGTERM finishes the files in hand and stops.

    With --http a store is answered when the catalog knows of its event; what is cold is archived afterwards.
    """
    from archiver import logs
    from archiver.notify import Notifier

    settings = invocation.settings
    if http is None and (token_file or certificate_file or key_file):
        raise click.UsageError("--token-file, --certificate-file and --key-file go with --http")
    if http is not None and (once or not _ADDRESS.fullmatch(http)):
        raise click.UsageError("--http takes HOST:PORT, and does not end")
    logs.configure(settings.log)

    def ready(status: str) -> None:
        invocation.output.json({"status": status}, "listening")
        Notifier().ready(status)

    if http is not None:
        _serve(settings, tiers, http, token_file, certificate_file, key_file, ready)
        return EXIT_OK
    try:
        from archiver.s3.listening import listen as run
    except ImportError as error:
        raise _not_installed(error) from error

    with interruptible(invocation) as stop:
        run(settings, tiers, stop, lambda batch: invocation.output.json(batch, "batch"), ready, once=once)
    return EXIT_OK


def _serve(
    settings: Settings,
    tiers: Sequence[str],
    http: str,
    token_file: Path | None,
    certificate_file: Path | None,
    key_file: Path | None,
    ready: Callable[[str], None],
) -> None:
    try:
        from archiver.http_server import Listening
        from archiver.s3.listening import serve
    except ImportError as error:
        raise _not_installed(error) from error
    from archiver.s3.signing import read_token

    token = read_token(token_file) if token_file else None
    serve(settings, tiers, Listening(http, certificate_file, key_file), token, ready)
