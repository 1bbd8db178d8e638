"""scan and plan: what there is, and what would be done about it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING

import click

from archiver.catalog.rows import State
from archiver.cli.invocation import EXIT_INTERRUPTED, Invocation, interruptible, pass_invocation
from archiver.cli.output import Column, Output, printable
from archiver.cli.verb import VerbCommand
from archiver.cli.where import where
from archiver.errors import EXIT_OK, EXIT_WARNINGS, ArchiverError, PlanCostsMore, TierUnknown
from archiver.lifecycle import plan as planning
from archiver.lifecycle.opening import open_site
from archiver.lifecycle.plan import Explanation
from archiver.lifecycle.planned import PlannedAct, PlanSummary
from archiver.lifecycle.policy import Why
from archiver.lifecycle.site import Site
from archiver.lifecycle.worth import Purse
from archiver.units import about_size, counted

if TYPE_CHECKING:
    from archiver.tiers.protocol import Tier, Where
    from archiver.tiers.scan import ScanReport

_SHOWN = 20
_PLANNABLE = (State.RESIDENT, State.RECORDED, State.RECALLED, State.SUPERSEDED)


# -- scan --------------------------------------------------------------------------------------------------------------


@click.command(
    cls=VerbCommand,
    example="""
    archiver scan
    archiver scan photos
    """,
)
@click.argument("tiers", metavar="[TIER]...", nargs=-1)
@pass_invocation
def scan(invocation: Invocation, tiers: tuple[str, ...]) -> int:
    """Read the tiers and bring the catalog up to date.

    One walk over each tier; files are not opened. A tier that cannot be reached keeps everything the catalog knows
    of it, and the others are scanned. What was released and then moved is known again at its new place.
    """
    from archiver.lifecycle.rebuild import adopt_moved
    from archiver.tiers.scan import scan as run

    code = EXIT_OK
    with open_site(invocation.settings) as site, interruptible(invocation) as stop:
        for name in chosen(site, tiers):
            began, moved = int(time.time()), 0
            try:
                with invocation.output.busy(f"scanning {name}") as say:
                    report = run(
                        site.catalog,
                        site.tiers[name],
                        progress=lambda at: say(f"{_amount(at.files, 'file', at.directories)}: {at.path}"),
                        stop=stop,
                    )
                    for outcome in adopt_moved(site, site.tiers[name], began) if report.changes.gone else ():
                        invocation.output.json(outcome, "outcome")
                        moved += 1
            except ArchiverError as error:
                invocation.output.error(error)
                code = error.exit_code
                continue
            invocation.output.json(report, "scan")
            if not invocation.as_json:
                _print_scan(invocation.output, report, moved)
            code = code or (EXIT_OK if report.complete and not report.warned else EXIT_WARNINGS)
    return EXIT_INTERRUPTED if stop.is_set() else code


def _amount(files: int, what: str, directories: int) -> str:
    return f"{counted(files, what)} in {counted(directories, 'folder')}"


def _print_scan(output: Output, report: ScanReport, moved: int) -> None:
    changes = ", ".join(f"{count:,} {what}" for what, count in report.changes._asdict().items() if count)
    skipped = [f"{count:,} {what}" for what, count in (*report.skipped.items(), *report.unsupported.items())]
    output.facts(
        [
            ("found", f"{_amount(report.files, 'image', report.directories)}, {report.seconds:.1f} s"),
            ("changes", changes or "none"),
            ("moved", f"{moved:,} of them were released or recalled elsewhere" if moved else None),
            ("hard links", f"{counted(report.hard_linked, 'file')}, never released" if report.hard_linked else None),
            ("not tracked", ", ".join(skipped)),
            ("", None if report.complete else "the scan did not finish: nothing is read as deleted"),
        ],
        title=f"tier {report.tier}",
    )
    for warning in report.warnings[:_SHOWN]:
        output.warn(f"{printable(warning.path)}: {warning.reason}")
    if report.warned > _SHOWN:
        output.warn(f"and {report.warned - _SHOWN:,} more")


def chosen(site: Site, tiers: Sequence[str]) -> list[str]:
    """The tiers named, or all. Raises TierUnknown."""
    for name in tiers:
        if name not in site.tiers:
            raise TierUnknown(tier=name, known=", ".join(site.tiers) or "none")
    return list(tiers or site.tiers)


# -- plan --------------------------------------------------------------------------------------------------------------


@click.command(
    cls=VerbCommand,
    example="""
    archiver plan
    archiver plan photos -v                        # every file
    archiver plan --explain /srv/photos/rome.jpg   # which condition decided
    """,
)
@click.argument("tiers", metavar="[TIER]...", nargs=-1)
@click.option("--explain", type=where, metavar="FILE", help="Hold every rule against one file.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Plan for N images.")
@pass_invocation
def plan(invocation: Invocation, tiers: tuple[str, ...], explain: Where | None, limit: int | None) -> int:
    """Show what would be archived, why, and what it would save.

    Changes nothing. This is what `archiver archive` would start with now, coldest images first; whether each passes
    the gate shows only when it is encoded.
    """
    if explain is not None:
        return _explain(invocation, explain)
    return show_plan(invocation, tiers, None, limit)


@dataclass(frozen=True, slots=True)
class Planned:
    """One line of the plan, as --json prints it."""

    path: Where
    bytes_now: int
    bytes_after: int
    action: str
    rule: str
    scheme: str
    reasons: tuple[str, ...]


def show_plan(
    invocation: Invocation, tiers: Sequence[str] | None, paths: Sequence[Where] | None, limit: int | None
) -> int:
    """Print the plan for tiers, or for paths named by hand."""
    now = datetime.now(UTC)
    with open_site(invocation.settings, readonly=True) as site:
        if paths is not None:
            _show(invocation, "named by hand", _by_hand(site, paths, limit), PlanSummary(), fill=True)
            return EXIT_OK
        code = EXIT_OK
        for name in chosen(site, tiers or ()):
            summary, tier = PlanSummary(), site.tiers[name]
            acts = planning.plan(site.catalog, tier, site.settings, now, limit, summary)
            purse = Purse.of(tier, site.settings, now)
            _show(invocation, f"tier {name}", ((tier, act) for act in acts), summary, purse)
            try:
                if purse is not None:
                    purse.judge(summary)
            except PlanCostsMore as error:
                invocation.output.error(error)
                code = error.exit_code
    return code


def _by_hand(site: Site, paths: Sequence[Where], limit: int | None) -> Iterator[tuple[Tier, PlannedAct]]:
    for path in paths:
        for tier, row in islice(site.rows(path, _PLANNABLE), limit):
            yield tier, planning.forced(row, tier.name, site.settings)


def _show(
    invocation: Invocation,
    title: str,
    acts: Iterator[tuple[Tier, PlannedAct]],
    summary: PlanSummary,
    purse: Purse | None = None,
    *,
    fill: bool = False,
) -> None:
    output = invocation.output
    rows: list[list[str]] = []
    most = None if invocation.verbose else _SHOWN
    for tier, act in acts:
        if fill:
            summary.add(act)
        line = Planned(
            tier.where(act.file.path),
            act.file.size,
            act.bytes_after,
            act.action,
            act.rule,
            act.scheme,
            act.reasons,
        )
        output.json(line, "act")
        if not output.as_json and (most is None or len(rows) < most):
            rows.append([str(line.path), about_size(line.bytes_now), act.action, act.rule, "; ".join(act.reasons[-2:])])
    bill = _Bill.of(purse, summary)
    output.json(_Totals(title, summary, summary.files, summary.bytes_now, summary.bytes_after, bill), "plan")
    if not output.as_json:
        _print_plan(output, title, rows, summary)
        if purse is not None:
            _print_bill(output, purse, summary)


@dataclass(frozen=True, slots=True)
class _Totals:
    what: str
    summary: PlanSummary
    files: int
    bytes_now: int
    bytes_after: int
    bill: _Bill | None


@dataclass(frozen=True, slots=True)
class _Bill:
    """What a plan costs and saves, in the currency of its price list."""

    prices: str
    currency: str
    as_of: str
    horizon: timedelta
    cost: float
    net: float

    @classmethod
    def of(cls, purse: Purse | None, summary: PlanSummary) -> _Bill | None:
        if purse is None or summary.money is None:
            return None
        prices, money = purse.terms.prices, summary.money
        return cls(prices.name, prices.currency, prices.as_of, prices.horizon, money.cost, money.net)


def _print_bill(output: Output, purse: Purse, summary: PlanSummary) -> None:
    if summary.money is not None:
        prices = purse.terms.prices
        title = f"prices {prices.name}" + (f", as of {prices.as_of}" if prices.as_of else "")
        *lines, (name, net) = purse.lines(summary.money)
        output.table([Column(title), Column("", number=True)], lines, total=[name, net])
    if summary.declined is not None:
        declined, shown = summary.declined, purse.terms.shown
        output.text(
            f"{declined.objects:,} images are left alone because they would cost {shown(declined.cost)} and save "
            f"{shown(declined.saved)}."
        )


def _print_plan(output: Output, title: str, rows: list[list[str]], summary: PlanSummary) -> None:
    output.text(title, style="bold")
    if not summary.files:
        output.text("Nothing would be done now.")
        if summary.to_free == 0:
            full = f"{summary.used_share:.0%} full"
            output.text(f"Its filesystem is {full}: releases begin at the tier's high watermark.")
        elif not summary.skipped:
            output.text("No image is cold by the rules: `archiver plan --explain FILE` tells why one is not.")
    else:
        columns = [Column("coldest first"), Column("size", number=True), Column("act"), Column("rule"), Column("why")]
        output.table(columns, rows)
        if len(rows) < summary.files:
            output.text(f"... and {summary.files - len(rows):,} more (-v shows all)")
        output.table(
            [
                Column("rule"),
                Column("act"),
                Column("scheme"),
                *(Column(c, number=True) for c in ("files", "now", "after")),
            ],
            [
                [
                    line.rule,
                    line.action,
                    line.scheme,
                    line.files,
                    about_size(line.bytes_now),
                    about_size(line.bytes_after),
                ]
                for line in summary.lines
            ],
            total=["in all", "", "", summary.files, about_size(summary.bytes_now), about_size(summary.bytes_after)],
        )
        output.text(f"It would save {about_size(summary.saving)} once the grace periods are over.")
    if summary.skipped:
        _print_skipped(output, summary.skipped)
    if summary.capped:
        output.text("The sweep's caps, or --limit, end this plan; the next sweep goes on.")


def _print_skipped(output: Output, skipped: Counter[Why]) -> None:
    output.table(
        [Column("files", number=True), Column("left alone because")],
        [[count, why.value] for why, count in skipped.most_common()],
    )


def _explain(invocation: Invocation, path: Where) -> int:
    output = invocation.output
    with open_site(invocation.settings, readonly=True) as site:
        located = site.locate(path)
        found = planning.explain(site.catalog, located.tier, site.settings, datetime.now(UTC), located.relative)
    output.json(found, "explanation")
    if not output.as_json:
        _print_explanation(output, path, found)
    return EXIT_OK


def _print_explanation(output: Output, path: Where, found: Explanation) -> None:
    decision = found.decision
    by = f" by rule {decision.rule.name}" if decision.rule else ""
    output.facts(
        [
            ("file", str(path)),
            ("state", found.file.state.label),
            ("now", f"{decision.action}{by} ({decision.why})"),
            *(("because" if first else "", reason) for first, reason in _marked(decision.reasons)),
        ]
    )
    for verdict in found.verdicts:
        output.table(
            [Column(""), Column("condition"), Column("found")],
            [[_sign(condition.holds), condition.why.value, condition.sentence] for condition in verdict.conditions],
            title=f"rule {verdict.rule.name}: {'matches' if verdict.matches else 'does not match'}",
        )


def _marked(reasons: Sequence[str]) -> Iterator[tuple[bool, str]]:
    return ((number == 0, reason) for number, reason in enumerate(reasons))


def _sign(holds: bool | None) -> str:
    return "unknown" if holds is None else "holds" if holds else "fails"
