"""From released to recalled: generate an image from the record and put it where the placeholder stands, in the same
inode.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from threading import Event

from archiver.catalog.rows import FileRow, State
from archiver.errors import ArchiverError, NotReleased, from_os_error
from archiver.lifecycle import exact
from archiver.lifecycle.arrows import arrow
from archiver.lifecycle.fill import Carried, carried_by_released, fill
from archiver.lifecycle.outcome import Listener, Outcome, Result, Tally, ignore
from archiver.lifecycle.site import Site
from archiver.lifecycle.subject import Subject, hold
from archiver.tiers.local import LocalTier

_RECALLABLE = (State.RELEASED,)


@dataclass(frozen=True, slots=True)
class _Request:
    """A held-open placeholder and what it says of itself."""

    subject: Subject
    carried: Carried
    resources: ExitStack


def recall(site: Site, paths: Sequence[Path], *, listener: Listener = ignore, stop: Event | None = None) -> Tally:
    """Regenerate every released file among `paths` (files, or folders with all below them), in place.

    A file that cannot be recalled stays the placeholder that it is and is reported; the others go on.
    Raises NotInAnyTier, NotTracked for a path that names nothing, and the errors of the models.
    """
    tally = Tally()

    def tell(outcome: Outcome) -> None:
        tally.add(outcome)
        listener(outcome)

    wanted = (found for path in paths for found in site.rows(path, _RECALLABLE))
    while batch := list(islice(wanted, site.settings.model.batch)):
        if stop is not None and stop.is_set():
            break
        requests = list(_open(site, batch, tell))
        try:
            exactly = [request for request in requests if exact.is_exact(request.carried.record.scheme)]
            for request in exactly:
                act = partial(exact.restore, site, request.subject, request.carried.envelope)
                tell(_attempt(request.subject.path, act))
            if generated := [request for request in requests if request not in exactly]:
                decoded = site.engine.generate([request.carried.record for request in generated])
                arrow("recall.decoded")
                for request, picture in zip(generated, decoded, strict=True):
                    act = partial(fill, site, request.subject, request.carried, picture)
                    tell(_attempt(request.subject.path, act))
        finally:
            for request in requests:
                request.resources.close()
    return tally


def _attempt(path: Path, act: Callable[[], Outcome]) -> Outcome:
    """One file's failure is its own."""
    try:
        return act()
    except OSError as error:
        failure: ArchiverError = from_os_error(error, path)
    except ArchiverError as error:
        failure = error
    return Outcome(path, "recall", Result.FAILED, failure.message, error=failure)


def _open(site: Site, batch: Sequence[tuple[LocalTier, FileRow]], tell: Listener) -> Iterator[_Request]:
    for tier, row in batch:
        path = tier.root / row.path
        if row.state is State.RECALLED:
            tell(Outcome(path, "recall", Result.SKIPPED, "already recalled"))
            continue
        with ExitStack() as resources:
            try:
                if row.state is not State.RELEASED:
                    raise NotReleased(path=path, state=row.state.label)
                subject = resources.enter_context(hold(tier, row, os.O_RDWR))
                carried = carried_by_released(site, subject)
            except (OSError, ArchiverError) as error:
                failure = from_os_error(error, path) if isinstance(error, OSError) else error
                result = Result.SKIPPED if isinstance(failure, NotReleased) else Result.FAILED
                tell(Outcome(path, "recall", result, failure.message, error=failure))
                continue
            yield _Request(subject, carried, resources.pop_all())
