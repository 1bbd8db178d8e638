"""status: where everything stands."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import click

from archiver.catalog.rows import AuditRow, State
from archiver.cli.invocation import Invocation, pass_invocation
from archiver.cli.output import Cell, Column, Output, human_time, printable
from archiver.cli.verb import VerbCommand
from archiver.cli.where import where
from archiver.errors import EXIT_OK
from archiver.tiers.protocol import Where
from archiver.units import about_duration, about_size, counted

if TYPE_CHECKING:
    from archiver.desk.report import Report
    from archiver.status import FileStatus, FolderStatus, TierStatus

_STANDS = {
    State.RESIDENT: "the original",
    State.RECORDED: "the original; a verified record of it is durable",
    State.RELEASED: "a placeholder with the record inside",
    State.RECALLED: "a SYNTHETIC image, generated from the record; it is not the original",
    State.SUPERSEDED: "what somebody wrote after it was recorded",
    State.GONE: "nothing: the last scan did not find it",
}


@click.command(
    cls=VerbCommand,
    example="""
    archiver status
    archiver status /srv/photos/rome.jpg
    archiver status --recalls            # who is recalling what
    archiver status --json | jq '.tiers[].given_back'
    """,
)
@click.argument("paths", metavar="[PATH]...", nargs=-1, type=where)
@click.option("--recalls", is_flag=True, help="Show who reads released files now and did within the hour.")
@pass_invocation
def status(invocation: Invocation, paths: tuple[Where, ...], recalls: bool) -> int:
    """Show tiers and their states, or everything about files.

    Without a path it reads counters, however many files there are. Of a file it tells state, record, fidelity, policy
    and history. With --recalls it asks the running daemon about the readers of released files.
    """
    if recalls:
        if paths:
            raise click.UsageError("--recalls is about all files: name none")
        return _show_recalls(invocation)
    from archiver import status as gather

    output = invocation.output
    if not paths:
        tiers = gather.tiers(invocation.settings)
        output.json({"tiers": tiers}, "status")
        if not output.as_json:
            _print_tiers(output, tiers)
        return EXIT_OK
    for found in gather.paths(invocation.settings, paths):
        output.json(found, "file" if isinstance(found, gather.FileStatus) else "folder")
        if output.as_json:
            continue
        if isinstance(found, gather.FileStatus):
            _print_file(output, found)
        else:
            _print_folder(output, found)
    return EXIT_OK


def _print_tiers(output: Output, tiers: tuple[TierStatus, ...]) -> None:
    if not tiers:
        output.text("No tier was scanned yet: archiver scan")
        return
    for tier in tiers:
        summary = tier.summary
        output.text(f"tier {summary.tier.name}  {summary.tier.root}", style="bold")
        rows: list[list[Cell]] = [
            [one.state.label, one.files, about_size(one.bytes)] for one in summary.states if one.files
        ]
        columns = [Column("state"), Column("files", number=True), Column("bytes", number=True)]
        tracked = [one for one in summary.states if one.state is not State.GONE]
        total: list[Cell] = [
            "tracked",
            sum(one.files for one in tracked),
            about_size(sum(one.bytes for one in tracked)),
        ]
        output.table(columns, rows, total=total)
        output.facts(_tier_facts(tier))
        output.text()


def _tier_facts(tier: TierStatus) -> list[tuple[str, Cell]]:
    summary = tier.summary
    held = f"{counted(summary.held_files, 'original')}, {about_size(summary.held_bytes)}"
    reachable = "" if summary.tier.reachable else "UNREACHABLE: nothing is read as deleted"
    first = "" if tier.first_scan_done_at else "not finished: nothing is archived before"
    has_released = bool(tier.released_bytes) and tier.given_back is not None
    return [
        ("", reachable),
        ("last scan", human_time(tier.last_scan_at)),
        ("first scan", first),
        ("released", f"{about_size(tier.released_bytes)} of originals" if has_released else ""),
        ("held", f"{held}, free when their grace periods end" if summary.held_files else ""),
        ("given back", about_size(tier.given_back or 0) if has_released else ""),
    ]


def _print_folder(output: Output, folder: FolderStatus) -> None:
    rows: list[list[Cell]] = [[state.label, files, about_size(size)] for state, files, size in folder.states]
    columns = [Column("state"), Column("files", number=True), Column("bytes", number=True)]
    output.table(columns, rows, title=f"{folder.path} (tier {folder.tier})")


def _print_file(output: Output, found: FileStatus) -> None:
    file, record = found.file, found.record
    facts: list[tuple[str, Cell]] = [
        ("tier", found.tier),
        ("state", f"{file.state.label}{', pinned' if found.pinned else ''}"),
        ("at its path", _STANDS[file.state]),
        ("size", f"{about_size(file.size)} ({file.size:,} bytes)"),
        (
            "refused",
            f"{file.refusal}; it is not tried again until it or its rule changes" if file.refusal else "",
        ),
    ]
    if record is not None:
        facts += [
            ("original", f"{record.format.upper()}, {record.width} x {record.height}, sha256 {record.sha256.hex()}"),
            ("record", f"{len(record.payload)} bytes: {', '.join(f'{name} {size}' for name, size in found.parts)}"),
            ("rate", f"{8 * len(record.payload) / (record.width * record.height):.5f} bits per pixel"),
            ("scheme", _scheme(record.scheme)),
            ("profile", record.profile.hex()[:16]),
            ("fidelity", _fidelity(found)),
            ("policy", f"rule {record.rule}" if record.rule else "none"),
            ("recorded", human_time(datetime.fromtimestamp(record.created_at, UTC))),
        ]
    facts.append(("held", _held(found)))
    output.facts(facts, title=str(found.path))
    if found.history:
        output.table(
            [Column("when"), Column("act"), Column("rule"), Column("detail")],
            [_act(row) for row in found.history],
            title="history, newest first",
        )


def _scheme(number: int) -> str:
    from archiver.codec.record import Scheme

    return Scheme(number).label


def _fidelity(found: FileStatus) -> str:
    if found.fidelity is None:
        return "not known"
    bce = f", label BCE {found.fidelity.label_bce:.2f}" if found.fidelity.label_bce is not None else ""
    return f"semantic {found.fidelity.semantic:.2f}, colour error {found.fidelity.colour:.1f}{bce}"


def _held(found: FileStatus) -> str:
    if found.held is None:
        return "" if found.file.state not in (State.RELEASED, State.RECALLED) else "no longer: the original is gone"
    ends = datetime.fromtimestamp(found.held.expires_at, UTC)
    left = ends - datetime.now(UTC)
    when = f"for {about_duration(left)} more" if left.total_seconds() > 0 else "until the next expire"
    # What somebody wrote stays where it is.
    back = "undo --to DIR copies it" if found.file.state is State.SUPERSEDED else "undo brings it back"
    return f"the original, {when} (until {human_time(ends)}): archiver {back}"


def _act(row: AuditRow) -> list[Cell]:
    return [human_time(datetime.fromtimestamp(row.at, UTC)), row.act.label, row.rule, row.detail]


# -- recalls -----------------------------------------------------------------------------------------------------------


def _show_recalls(invocation: Invocation) -> int:
    from archiver import status as gather

    output, report = invocation.output, gather.recalls(invocation.settings)
    output.json(report, "recalls")
    if not output.as_json:
        _print_recalls(output, report)
    return EXIT_OK


def _print_recalls(output: Output, report: Report) -> None:
    most = "any number" if report.per_hour is None else report.per_hour
    past = "in the last hour"
    if report.counted < 3600:
        past = f"since the daemon started or was reloaded, {about_duration(timedelta(seconds=report.counted))} ago"
    output.facts(
        [
            ("mode", report.mode),
            ("archiver-recall", "connected" if report.responder else "not connected"),
            *((f"reads on {watch.tier}", watch.problem or f"noticed ({watch.how})") for watch in report.watches),
            ("readers waiting", report.readers),
            ("files under way", report.files_under_way),
            ("files queued", report.files_queued),
            ("recalled in an hour", f"{report.last_hour} of {most}"),
            ("refused, by a rule", report.refused),
            ("refused, by a limit", report.full),
            ("failed", report.failed),
            ("too late", report.late),
            ("counted", past),
        ],
        title="recalls by readers",
    )
    recalls = [*report.under_way, *report.queued]
    if recalls:
        columns = [Column("file"), Column("stage"), Column("priority"), Column("since", number=True)]
        columns += [Column("readers", number=True), Column("process"), Column("user")]
        rows: list[list[Cell]] = [
            [
                printable(one.path),
                one.stage,
                one.priority,
                f"{one.seconds:.1f} s",
                one.readers,
                printable(one.process),
                one.user,
            ]
            for one in recalls
        ]
        output.table(columns, rows, title="now")
    if report.shares:
        columns = [Column("process"), Column("user")]
        columns += [Column(name, number=True) for name in ("waiting", "recalled", "placeholder", "refused", "failed")]
        rows = [
            [printable(one.process), one.user, one.waiting, one.recalled, one.placeholder, one.refused, one.failed]
            for one in report.shares
        ]
        output.table(columns, rows, title=f"who, {past}")
