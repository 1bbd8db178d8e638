"""From released to recalled: generate an image from the record and put it where the placeholder stands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import islice
from threading import Event

from archiver.catalog.rows import FileRow, State
from archiver.errors import ArchiverError, NotReleased, RecordCorrupt, from_os_error
from archiver.lifecycle import exact
from archiver.lifecycle.arrows import arrow
from archiver.lifecycle.keeper import Placeholder
from archiver.lifecycle.outcome import Listener, Outcome, Result, Tally, attempt, failed, ignore
from archiver.lifecycle.site import Site
from archiver.tiers.protocol import Tier, Where

_RECALLABLE = (State.RELEASED,)


def recall(site: Site, paths: Sequence[Where], *, listener: Listener = ignore, stop: Event | None = None) -> Tally:
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
        with ExitStack() as resources:
            for outcome in _recalled(site, list(_opened(site, batch, resources, tell))):
                tell(outcome)
    return tally


def _opened(
    site: Site, batch: Sequence[tuple[Tier, FileRow]], resources: ExitStack, tell: Listener
) -> Iterator[Placeholder]:
    """The placeholders of a batch, open until `resources` is closed."""
    for tier, row in batch:
        path = tier.where(row.path)
        if row.state is State.RECALLED:
            tell(Outcome(path, "recall", Result.SKIPPED, "already recalled"))
            continue
        if row.state is not State.RELEASED:
            tell(failed(path, "recall", NotReleased(path=path, state=row.state.label), Result.SKIPPED))
            continue
        try:
            yield resources.enter_context(site.keeper(tier).recalling(row))
        except OSError as error:
            tell(failed(path, "recall", from_os_error(error, path)))
        except ArchiverError as error:
            tell(failed(path, "recall", error))


def _recalled(site: Site, placeholders: Sequence[Placeholder]) -> Iterator[Outcome]:
    exactly = [one for one in placeholders if exact.is_exact(one.carried.record.scheme)]
    for one in exactly:
        yield attempt(one.path, "recall", one.restore)
    generated = [one for one in placeholders if one not in exactly]
    if not generated:
        return
    try:
        decoded = site.engine.generate([one.carried.record for one in generated])
    except RecordCorrupt:  # of one of them, which is reported; the others are generated without it
        for one in generated:
            yield attempt(one.path, "recall", partial(_recall_alone, site, one))
        return
    arrow("recall.decoded")
    for one, picture in zip(generated, decoded, strict=True):
        yield attempt(one.path, "recall", partial(one.fill, picture))


def _recall_alone(site: Site, placeholder: Placeholder) -> Outcome:
    (picture,) = site.engine.generate([placeholder.carried.record])
    return placeholder.fill(picture)
