"""From resident to released, in batches that keep the model busy.

    plan -> load (threads: open, hash, decode, shrink) -> encode, trial decode (the model)
         -> gate, commit, release (one thread)

Each stage works on other batches at the same time, the model on two, so that it has work while the last picture of a
batch is waited for. No stage runs more than two batches ahead, so memory does not grow with the plan.
"""

from __future__ import annotations

import os
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache, partial
from itertools import groupby, islice
from threading import BoundedSemaphore, Event, Lock
from types import TracebackType
from typing import Self

from archiver import formats
from archiver.catalog.rows import FileRow, NewRecord, Refused, State
from archiver.codec import lossless
from archiver.codec.fidelity import FidelityReport
from archiver.codec.picture import Picture
from archiver.codec.record import Record, Scheme
from archiver.config import GateSettings
from archiver.errors import (
    ArchiverError,
    FileModified,
    GateFailed,
    ImageRefused,
    ModelsNotInstalled,
    NothingSaved,
    Pinned,
    PlanCostsMore,
    ProfileUnknown,
    TierOfAnotherCatalog,
    TranscodeRefused,
    TranscoderNotInstalled,
    WeightsDamaged,
    from_os_error,
)
from archiver.formats import RECORD_ROOM, Inspection, Refusal, SourceFacts
from archiver.lifecycle import exact
from archiver.lifecycle import plan as planning
from archiver.lifecycle.arrows import arrow
from archiver.lifecycle.expire import damage_of
from archiver.lifecycle.keeper import Keeper, Releasing
from archiver.lifecycle.outcome import Listener, Outcome, Result, Rung, Tally, attempt, failed, ignore
from archiver.lifecycle.ownership import claim, require_own
from archiver.lifecycle.placeholder import source_facts
from archiver.lifecycle.planned import PlannedAct
from archiver.lifecycle.refusals import forget_outdated
from archiver.lifecycle.site import Site
from archiver.lifecycle.worth import Purse
from archiver.tiers.protocol import Tier, Where

_AHEAD = 2  # batches that a stage runs ahead of the next
_PREVIEW_SIDE, _PREVIEW_MULTIPLE = 256, 16  # pixels that a lossless record's colour map is made from
# However many files are opened at a time: decoding takes a processor and a whole picture's memory.
_decoding = BoundedSemaphore(max(2, (os.cpu_count() or 2) - 1))


@dataclass(frozen=True, slots=True)
class Task:
    """One file that the plan (or the user) wants recorded or released."""

    tier: Tier
    act: PlannedAct

    @property
    def row(self) -> FileRow:
        return self.act.file

    @property
    def path(self) -> Where:
        return self.tier.where(self.act.file.path)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A file read once: what encoding and proving it needs, and none of its pixels beyond the working size."""

    task: Task
    inspection: Inspection
    source: SourceFacts
    picture: Picture


@dataclass(frozen=True, slots=True)
class Encoded:
    """The record on the rung that a file stopped at, and what its trial decode was measured to be worth.

    Where even the last rung fell short, `failure` says why, and there may be no record.
    """

    loaded: Loaded
    rungs: tuple[Rung, ...] = ()
    record: Record | None = None
    failure: ArchiverError | None = None

    @property
    def fidelity(self) -> FidelityReport | None:
        return self.rungs[-1].fidelity if self.rungs else None

    @property
    def climbed(self) -> tuple[Rung, ...]:
        """Every rung, where there was more than one to try."""
        return self.rungs if len(self.loaded.task.act.rungs) > 1 else ()


def archive(
    site: Site,
    *,
    tiers: Sequence[str] | None = None,
    paths: Sequence[Where] | None = None,
    limit: int | None = None,
    listener: Listener = ignore,
    stop: Event | None = None,
) -> Tally:
    """Record and release what the rules call cold; with `paths`, those files now, whatever their age.

    Every check and gate holds in both cases. A file that is refused or fails stays as it is, is reported, and the
    others go on. Raises TierNotScanned, TierUnreachable, NotInAnyTier, NotTracked, TierOfAnotherCatalog where that is
    the tier of `paths`, and the errors of the models.
    """
    stop = stop or Event()
    for tier in site.concerned(tiers, paths):
        if paths is not None:  # else its plan asks
            require_own(site.catalog, tier)
        forget_outdated(site.catalog, site.settings, tier.name, site.tier_ids[tier.name])
    with _Run(site, listener, stop) as run:
        for batch in _batches(_tasks(site, tiers, paths, limit, run.refuse_plan), site.settings.model.batch):
            if stop.is_set():
                break
            run.submit(batch)
        run.drain()
    return run.tally


def _tasks(
    site: Site,
    tiers: Sequence[str] | None,
    paths: Sequence[Where] | None,
    limit: int | None,
    refuse: Callable[[Tier, ArchiverError], None],
) -> Iterator[Task]:
    now = datetime.now(UTC)
    if paths is not None:
        for path in paths:
            wanted = (State.RESIDENT, State.SUPERSEDED, State.RECORDED, State.RECALLED)
            for tier, row in islice(site.rows(path, wanted), limit):
                yield Task(tier, planning.forced(row, tier.name, site.settings))
        return
    for tier in site.concerned(tiers, None):
        try:
            for act in planning.affordable(site.catalog, tier, site.settings, now, limit):
                yield Task(tier, act)
        except (PlanCostsMore, TierOfAnotherCatalog) as error:
            refuse(tier, error)  # and the other tiers go on


def _batches(tasks: Iterator[Task], size: int) -> Iterator[list[Task]]:
    """Neighbours of the same schemes, up to `size`; a model call codes one scheme."""
    for _, group in groupby(tasks, key=lambda task: (task.act.rungs, task.act.action)):
        while batch := list(islice(group, size)):
            yield batch


class _Run:
    """The three stages and the totals of one call."""

    def __init__(self, site: Site, listener: Listener, stop: Event) -> None:
        self.site = site
        self.stop = stop
        self.tally = Tally()
        self._listener = listener
        self._telling = Lock()
        loaders = max((site.keeper(tier).loaders for tier in site.tiers.values()), default=1)
        self._loaders = ThreadPoolExecutor(loaders, "archive-load")
        self._coders = ThreadPoolExecutor(2, "archive-code")
        self._finisher = ThreadPoolExecutor(1, "archive-finish")
        self._loading: deque[list[Future[Loaded | None]]] = deque()
        self._coding: deque[Future[list[Encoded]]] = deque()
        self._finishing: deque[Future[None]] = deque()
        self._gathered: defaultdict[str, list[Releasing]] = defaultdict(list)  # by tier; the finisher's
        self._claimed: set[str] = set()  # tiers; the finisher's
        self._damage = cache(partial(damage_of, site))  # weights may be large: they are read once a run

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loaders.shutdown(cancel_futures=True)
        self._coders.shutdown(cancel_futures=True)
        self._finisher.shutdown(cancel_futures=True)

    def submit(self, batch: list[Task]) -> None:
        """Start loading one batch, and move on what was loaded and coded before it."""
        self._loading.append([self._loaders.submit(self._load, task) for task in batch])
        self._move_on(_AHEAD)

    def drain(self) -> None:
        """Finish what was coded, so that no file is left half way."""
        self._move_on(0)
        for name in self._gathered:
            self._finisher.submit(self._let_go, self.site.tiers[name]).result()

    def refuse_plan(self, tier: Tier, error: ArchiverError) -> None:
        """A whole tier is left as it is."""
        self._tell(Outcome(tier.where(""), "archive", Result.REFUSED, error.message, error=error))

    def _move_on(self, most: int) -> None:
        """Hand batches to the next stage, oldest first, until no stage has more than `most`."""
        while len(self._loading) > most:
            self._coding.append(self._coders.submit(self._code, self._loading.popleft()))
        while len(self._coding) > most:
            if coded := self._coding.popleft().result():
                self._finishing.append(self._finisher.submit(self._settle, coded))
        while len(self._finishing) > most:
            self._finishing.popleft().result()

    # -- stages --------------------------------------------------------------------------------------------------------

    def _load(self, task: Task) -> Loaded | None:
        """First stage, in a thread. None when the file needs no model (released from here) or was refused."""
        if self.stop.is_set():
            return None
        try:
            if task.row.state in (State.RECORDED, State.RECALLED):
                self._finishing.append(self._finisher.submit(self._release, task))
                return None
            return _load(self.site, task)
        except ImageRefused as error:
            if task.row.state is State.RELEASED and error.facts["reason"] is Refusal.PLACEHOLDER:
                self._tell(Outcome(task.path, "release", Result.SKIPPED, "already released"))
            elif error.facts["reason"] in (Refusal.PLACEHOLDER, Refusal.GENERATED):
                act = partial(self._keeper(task).adopt, task.row)
                self._tell(attempt(task.path, "adopt", act, otherwise=Result.REFUSED))
            else:
                self._refuse(task, error)
        except (ModelsNotInstalled, ProfileUnknown, WeightsDamaged):
            raise  # it is the same for every file: the run ends here
        except ArchiverError as error:
            self._tell(failed(task.path, "record", error, Result.REFUSED))
        except OSError as error:
            self._tell(failed(task.path, "record", from_os_error(error, task.path)))
        return None

    def _code(self, futures: list[Future[Loaded | None]]) -> list[Encoded]:
        """Second stage, in a thread: the model. What was only read when a stop came is left for the next run."""
        loaded = [item for future in futures if (item := future.result()) is not None]
        return self._climb(loaded) if loaded and not self.stop.is_set() else []

    def _climb(self, loaded: list[Loaded]) -> list[Encoded]:
        """Each file up the ladder, to the first scheme whose trial decode the gate lets pass."""
        stopped: list[Encoded] = []
        climbing = [Encoded(item) for item in loaded]
        for label in loaded[0].task.act.rungs:
            if not climbing:
                break
            tried = list(self._try(climbing, Scheme.parse(label)))
            stopped += [item for item in tried if item.failure is None]
            climbing = [item for item in tried if item.failure is not None]
        return stopped + climbing

    def _try(self, climbing: list[Encoded], scheme: Scheme) -> Iterator[Encoded]:
        """One rung more for each file, with its record and its failure, if it fell short."""
        if scheme is Scheme.LOSSLESS:
            yield from map(_tried_exactly, climbing)
            return
        engine = self.site.engine
        pictures = [item.loaded.picture for item in climbing]
        records = engine.encode(pictures, scheme)
        arrow("record.encoded")
        reports = engine.measure(pictures, engine.decode(records))
        for item, record, report in zip(climbing, records, reports, strict=True):
            failure = _shortfall(item.loaded.task.act.gate, record, report)
            rung = Rung(scheme.label, len(record.to_bytes()), report, failure.message if failure else "")
            yield Encoded(item.loaded, (*item.rungs, rung), record, failure)

    def _settle(self, batch: list[Encoded]) -> None:
        """Third stage, in its own thread: gate, proof, one commit for the batch, release."""
        passed = [item for item in batch if self._passes(item)]
        arrow("record.gated")
        exactly = [item for item in passed if item.record is not None and exact.is_exact(item.record.scheme)]
        self._commit([item for item in passed if item not in exactly])
        for item in exactly:
            # One by one: nearly the whole file is in memory between its proof and its placeholder.
            packed = self._packed(item)
            if packed is not None:
                self._commit([item], packed)

    def _packed(self, item: Encoded) -> bytes | None:
        """A file's bytes as its placeholder will keep them, proven to come back; None for a file that is refused."""
        task = item.loaded.task
        try:
            with self._keeper(task).reading(task.row) as original:
                return exact.pack(original, item.loaded.inspection, item.loaded.source.sha256)
        except (TranscodeRefused, NothingSaved) as error:
            rung = replace(item.rungs[-1], fidelity=None, shortfall=error.message)
            self._passes(replace(item, rungs=(*item.rungs[:-1], rung), failure=error))
        except TranscoderNotInstalled:
            raise  # it is the same for every file
        except ArchiverError as error:
            self._tell(failed(task.path, "record", error, Result.REFUSED))
        except OSError as error:
            self._tell(failed(task.path, "record", from_os_error(error, task.path)))
        return None

    def _commit(self, passed: Sequence[Encoded], packed: bytes | None = None) -> None:
        ids = self.site.catalog.commit_records([_new_record(item) for item in passed])
        arrow("record.committed")
        for item, record_id in zip(passed, ids, strict=True):
            task = item.loaded.task
            if record_id is None:
                changed = FileModified(path=task.path, state=task.row.state.label)
                self._tell(failed(task.path, "record", changed, Result.REFUSED))
                continue
            size, said = item.rungs[-1].record_bytes, item.climbed
            self._tell(Outcome(task.path, "record", Result.DONE, record_bytes=size, fidelity=item.fidelity, rungs=said))
            if task.act.action == "release":
                self._release(task, item, packed)

    def _release(self, task: Task, encoded: Encoded | None = None, packed: bytes | None = None) -> None:
        """Into the batch that its keeper releases together; a file in memory is not kept waiting there."""
        row = self.site.catalog.file(task.row.id)
        if (problem := self._forbids(row)) is not None:
            self._tell(failed(task.path, "release", problem, Result.REFUSED))
            return
        item = Releasing(row, task.act.rule, packed=packed)
        if encoded is not None and row.version == task.row.version:
            item = replace(item, fidelity=encoded.fidelity, inspection=encoded.loaded.inspection)
        gathered = self._gathered[task.tier.name]
        gathered.append(item)
        if packed is not None or len(gathered) >= self._keeper(task).together:
            self._let_go(task.tier)

    def _forbids(self, row: FileRow) -> ArchiverError | None:
        """Without a grace period the original goes at once: as at the end of one, only where its weights are whole."""
        if self.site.settings.release.grace or row.state is not State.RECORDED or row.record_id is None:
            return None
        return self._damage(self.site.catalog.record(row.record_id).profile)

    def _let_go(self, tier: Tier) -> None:
        gathered = self._gathered[tier.name]
        batch, gathered[:] = gathered[:], []
        try:
            self._claim(tier)
        except ArchiverError as error:
            for item in batch:
                self._tell(failed(tier.where(item.row.path), "release", error))
            return
        for outcome in self.site.keeper(tier).release(batch):
            self._tell(outcome)

    def _claim(self, tier: Tier) -> None:
        if tier.name not in self._claimed:
            claim(self.site, tier)
            self._claimed.add(tier.name)

    def _keeper(self, task: Task) -> Keeper:
        return self.site.keeper(task.tier)

    # -- verdicts ------------------------------------------------------------------------------------------------------

    def _passes(self, item: Encoded) -> bool:
        """Whether some rung passed the gate; a file of which none did is refused."""
        if item.failure is None:
            return True
        task = item.loaded.task
        self._note(task, item.failure, item.climbed)
        self._tell(
            Outcome(
                task.path,
                "record",
                Result.REFUSED,
                item.failure.message,
                fidelity=item.fidelity,
                error=item.failure,
                rungs=item.climbed,
            )
        )
        return False

    def _refuse(self, task: Task, error: ArchiverError) -> None:
        self._note(task, error)
        self._tell(failed(task.path, "record", error, Result.REFUSED))

    def _note(self, task: Task, error: ArchiverError, rungs: Sequence[Rung] = ()) -> None:
        """Into the catalog and the audit, so that a file is not tried again before it, or what judged it, changes."""
        detail = "; ".join(map(str, rungs)) or error.message.removeprefix(f"{error.kind}: ")
        self.site.catalog.refuse([Refused(task.row.id, task.row.version, error.kind, detail, task.act.rule)])

    def _tell(self, outcome: Outcome) -> None:
        with self._telling:
            self.tally.add(outcome)
            self._listener(outcome)


def _tried_exactly(item: Encoded) -> Encoded:
    """The lossless rung; whether the bytes really come back is proven when the file is open."""
    label, found = Scheme.LOSSLESS.label, item.loaded.inspection.format
    if found is not formats.Format.JPEG:
        failure = ImageRefused(reason=Refusal.UNSUPPORTED_FORMAT, detail=f"lossless is for JPEG, it is {found}")
        rungs = (*item.rungs, Rung(label, 0, None, failure.message))
        return Encoded(item.loaded, rungs, item.record, item.failure or failure)
    record = lossless.compose(item.loaded.picture)
    return Encoded(item.loaded, (*item.rungs, Rung(label, len(record.to_bytes()), lossless.EXACT)), record)


def _shortfall(gate: GateSettings, record: Record, fidelity: FidelityReport) -> ArchiverError | None:
    """The fidelity gate. That an image will fit its file inspection has made sure of, for records of usual size."""
    try:
        require(gate, fidelity)
    except GateFailed as error:
        return error
    if (size := len(record.to_bytes())) > RECORD_ROOM:
        return ImageRefused(reason=Refusal.DOES_NOT_FIT, detail=f"a record of {size} bytes")
    return None


def require(gate: GateSettings, fidelity: FidelityReport) -> None:
    """Raises GateFailed naming the measure that is below its floor."""
    if fidelity.semantic < gate.semantic:
        raise GateFailed(
            measure="semantic cosine", value=f"{fidelity.semantic:.3f}", floor=f"at least {gate.semantic:g}"
        )
    if gate.colour is not None and fidelity.colour > gate.colour:
        raise GateFailed(measure="colour error", value=f"{fidelity.colour:.1f}", floor=f"at most {gate.colour:.1f}")
    if gate.label_bce is not None and fidelity.label_bce is not None and fidelity.label_bce > gate.label_bce:
        raise GateFailed(measure="label BCE", value=f"{fidelity.label_bce:.2f}", floor=f"at most {gate.label_bce:.2f}")


def _working_size(site: Site, rungs: Sequence[str]) -> tuple[int, int]:
    """Long side and multiple, pixels; a rule that only transcodes needs no models."""
    if all(exact.is_exact(Scheme.parse(label)) for label in rungs):
        return _PREVIEW_SIDE, _PREVIEW_MULTIPLE
    profile = site.engine.profile
    return profile.long_side, profile.multiple


def _load(site: Site, task: Task) -> Loaded:
    long_side, multiple = _working_size(site, task.act.rungs)
    if (purse := Purse.of(task.tier, site.settings)) is not None:
        purse.require(task.act, task.path)  # a plan has only what pays, but anything can be named by hand
    with site.keeper(task.tier).reading(task.row) as original:
        if site.catalog.is_pinned(task.row.tier_id, task.row.path):
            raise Pinned(path=task.path)
        # The hash comes first: release compares it once more under a lease, so whatever is read in between, here and
        # there, is read from the bytes that the record speaks for.
        sha256 = original.sha256()
        with original.reader() as file, _decoding:
            inspection = formats.survey(file, site.limits)
            if not task.act.accepts(inspection.format):
                raise ImageRefused(
                    reason=Refusal.UNSUPPORTED_FORMAT, detail=f"it is a {inspection.format}, the rule is not for those"
                )
            picture = formats.load_picture(file, inspection, long_side, multiple)
        source = source_facts(task.row, inspection, sha256)
    return Loaded(task, inspection, source, picture)


def _new_record(item: Encoded) -> NewRecord:
    task, inspection, record, fidelity = item.loaded.task, item.loaded.inspection, item.record, item.fidelity
    assert record is not None and fidelity is not None  # it passed
    return NewRecord(
        file_id=task.row.id,
        expected=task.row.version,
        payload=record.to_bytes(),
        sha256=item.loaded.source.sha256,
        profile=record.profile,
        scheme=record.scheme,
        metadata=inspection.metadata.to_bytes() if inspection.metadata else None,
        rule=task.act.rule,
        format=inspection.format,
        width=inspection.width,
        height=inspection.height,
        semantic=fidelity.semantic,
        label_bce=fidelity.label_bce,
        colour=fidelity.colour,
        detail="; ".join(map(str, item.climbed)),
    )
