"""The recall desk: takes in who reads a released file, decides, and has the image generated that they wait for.

    ask -> rule -> one job a file, however many readers -> fair, bounded queue -> workers: decode, fill -> verdicts

A reader waits in the kernel (or in a FUSE call) until its verdict comes, so every way through here ends in one: a rule,
a limit, the image, a failure, the deadline, the reader's own end, or the end of the desk. Answers are given outside the
lock, by the thread that took the reader out of its job.
"""

from __future__ import annotations

import errno
import logging
import os
import resource
import threading
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import CancelledError, Future
from functools import partial

from archiver.catalog.rows import Act
from archiver.codec.record import Record
from archiver.decoder.engine import Generated
from archiver.desk.asker import Asker
from archiver.desk.budget import READ_BY, Budget
from archiver.desk.history import Ending, History, printable
from archiver.desk.jobs import Answer, FileKey, Job, Reader, Stage, Verdict
from archiver.desk.place import Place, place_of
from archiver.desk.report import Report, Share
from archiver.desk.rules import Action, Rules, Ruling
from archiver.desk.vigil import Vigil
from archiver.desk.waiting import FairQueue
from archiver.desk.work import Request, Unwanted, recall_open_file
from archiver.errors import ArchiverError, DeadlineMissed, FileBusy, from_os_error
from archiver.lifecycle.outcome import Result
from archiver.lifecycle.site import Site

_LEVELS = {
    Ending.PLACEHOLDER: logging.DEBUG,
    Ending.THERE: logging.DEBUG,
    Ending.LEFT: logging.DEBUG,
    Ending.FAILED: logging.WARNING,
    Ending.LATE: logging.WARNING,
}
_LOG = logging.getLogger("archiver.desk")
_SAME_MOMENT = 0.5  # seconds between two clocks that run out together
_BUSY_RETRY = 0.1  # seconds until a file is tried again that another archiver process acts on; it does not tell when
_OTHERS = 1024  # descriptors that the rest of the process may use
_SHOWN = 100  # entries of a list in a report

_Who = tuple[str, str]  # process and user


class RecallDesk:
    """Answers readers of released files, in threads of its own. Any thread may ask.

    `start` before the first question; `stop` answers whoever still waits and ends what is under way.
    """

    def __init__(self, site: Site) -> None:
        self._site = site
        self._settings = site.settings.recall
        self._rules = Rules(self._settings)
        self._lock = threading.Lock()
        self._work_to_do = threading.Condition(self._lock)
        self._jobs: dict[FileKey, Job] = {}
        self._queue: FairQueue[Job] = FairQueue()
        self._waiting = 0  # readers
        self._stopping = False
        self._budget = Budget(self._settings.per_hour)
        self._vigil = Vigil()
        self.history = History()
        self._workers = [
            threading.Thread(target=self._work, name=f"desk-{number}", daemon=True)
            for number in range(self._settings.concurrent)
        ]

    def start(self) -> None:
        """Begin to answer. Raises CatalogUnavailable."""
        self._budget.load(self._site.catalog)
        _make_room(2 * self._settings.waiting)
        self._vigil.start()
        for worker in self._workers:
            worker.start()

    def stop(self, *, for_good: bool = True) -> None:
        """Answer all who wait, but for files that are being written: those end as usual, and are waited for.
        Not for good: nobody hears the answers any more, who waits asks the next desk, and nothing has failed.

        A decode that nobody wants any more is not: it may take until the deadline of who wanted it. The engine's end
        drops it, or waits for it.
        """
        with self._lock:
            self._stopping = True
            self._work_to_do.notify_all()
            left = [job for job in self._jobs.values() if job.stage in (Stage.WAITING, Stage.DECODING)]
            readers = [reader for job in left for reader in self._take_all(job)]
            for job in left:
                if job.stage is Stage.WAITING:
                    self._drop(job)
                elif job.picture is not None:
                    job.picture.cancel()
        if for_good:
            self._tell_all(readers, Ending.FAILED, "the daemon is stopping")
        else:
            self._tell_all(readers, Ending.LEFT, "the next desk is asked")
        for worker in self._workers:
            if worker.ident is not None:  # else `start` has failed
                worker.join()
        self._vigil.stop()

    # -- asking --------------------------------------------------------------------------------------------------------

    def ask(
        self, fd: int, asker: Asker, answer: Answer, *, pidfd: int | None = None, patience: float | None = None
    ) -> Reader:
        """Somebody reads the file that is open at `fd` (O_RDWR). Both descriptors are the desk's from now on.

        `answer` is called once, here or in another thread; it must not block, and what it raises is only logged.
        `patience`: seconds until the reader must have its verdict, if sooner than the configuration says.
        """
        limit = self._settings.deadline.total_seconds()
        deadline = time.monotonic() + (limit if patience is None else min(limit, patience))
        reader = Reader(asker, answer, pidfd, deadline)
        place = Place(path=place_of(self._site, fd).path) if self._stopping else place_of(self._site, fd)
        if place.is_an_archivers:  # who reads there acts on it, and holds it locked
            return self._turn_away(reader, fd, place, Verdict(0, Ending.PLACEHOLDER))
        tier = place.tier.name if place.tier else None
        ruling = self._rules.judge(asker, tier, place.relative if place.tier else None)
        reader.rule = ruling.rule
        if ruling.action is not Action.RECALL:
            ending = Ending.REFUSED if ruling.action is Action.REFUSE else Ending.PLACEHOLDER
            return self._turn_away(reader, fd, place, Verdict(ruling.errno, ending))
        with self._lock:
            verdict = self._admit(reader, fd, place, ruling)
            if verdict is None:
                late = partial(self._end, reader, Ending.LATE, "the deadline has passed")
                reader.alarm = self._vigil.at(deadline, late)
                if pidfd is not None:
                    self._vigil.at_end_of(pidfd, lambda: self._left(reader, "the reader has ended"))
        return reader if verdict is None else self._turn_away(reader, fd, place, verdict)

    def withdraw(self, reader: Reader) -> None:
        """A reader does not wait any more, for a reason that its asker knows."""
        self._left(reader, "the question was withdrawn")

    def _left(self, reader: Reader, reason: str) -> None:
        """A reader has gone by itself, unless it was told to: its asker has the same deadline, and may be quicker."""
        if time.monotonic() > reader.deadline - _SAME_MOMENT:
            self._end(reader, Ending.LATE, "the deadline has passed")
        else:
            self._end(reader, Ending.LEFT, reason)

    def _admit(self, reader: Reader, fd: int, place: Place, ruling: Ruling) -> Verdict | None:
        """Under the lock: make the reader wait, or say what it is told instead."""
        if self._stopping:
            return self._failure(reader, Ending.FAILED, "the daemon is stopping")
        stat = os.fstat(fd)
        key = (stat.st_dev, stat.st_ino)
        job = self._jobs.get(key)
        if job is not None and job.stage is Stage.COMMITTING:
            return Verdict(0, Ending.RECALLED)
        if self._waiting >= self._settings.waiting:
            return self._failure(reader, Ending.FULL, f"{self._waiting} readers wait already")
        if job is None and not self._budget.allows(len(self._jobs)):
            return self._failure(reader, Ending.FULL, f"{self._settings.per_hour} files were recalled within an hour")
        owner = (reader.asker.uid, reader.asker.comm)
        if job is None:
            job = self._jobs[key] = Job(key, fd, place, ruling.priority, owner, first=reader.asker)
            self._queue.push(job, ruling.priority, owner)
            self._work_to_do.notify()
        else:
            os.close(fd)
            if ruling.priority < job.priority:
                job.priority, job.owner = ruling.priority, owner
                self._queue.hasten(job, ruling.priority, owner)
        reader.job = job
        job.readers[reader] = None
        self._waiting += 1
        return None

    def _turn_away(self, reader: Reader, fd: int, place: Place, verdict: Verdict) -> Reader:
        os.close(fd)
        self._tell(reader, place, verdict)
        return reader

    # -- answering -----------------------------------------------------------------------------------------------------

    def _failure(self, reader: Reader, ending: Ending, reason: str) -> Verdict:
        """What a reader is told that gets no image."""
        if self._settings.on_failure == "placeholder" or ending is Ending.LEFT:
            return Verdict(0, ending, reason)
        # The kernel's NFS server makes "try again later" of EAGAIN; a local program would not understand it.
        return Verdict(errno.EAGAIN if reader.asker.is_kernel_nfs else errno.EIO, ending, reason)

    def _end(self, reader: Reader, ending: Ending, reason: str) -> None:
        """One reader goes before its file is there; nothing happens where it has its verdict already."""
        with self._lock:
            job = reader.job
            if job is None or reader not in job.readers:
                return
            self._take(job, reader)
            if not job.readers and job.stage is Stage.WAITING:
                self._drop(job)
        self._tell(reader, job.place, self._failure(reader, ending, reason))

    def _tell_all(self, readers: Iterable[Reader], ending: Ending, reason: str = "") -> None:
        image = ending in (Ending.RECALLED, Ending.THERE)
        for reader in readers:
            assert reader.job is not None  # it was taken out of it
            verdict = Verdict(0, ending, reason) if image else self._failure(reader, ending, reason)
            self._tell(reader, reader.job.place, verdict)

    def _tell(self, reader: Reader, place: Place, verdict: Verdict) -> None:
        """The one place where a reader, in no job any more, gets its verdict."""
        if reader.alarm is not None:
            self._vigil.forget(reader.alarm)
        if reader.pidfd is not None:
            self._vigil.let_go(reader.pidfd)
            os.close(reader.pidfd)
            reader.pidfd = None
        waited = time.monotonic() - reader.since
        try:
            reader.answer(verdict)
        except Exception:
            _LOG.exception("the verdict on %s did not reach its reader", place.path)
        self.history.tell(reader.asker, place.path, verdict.ending, waited, rule=reader.rule, reason=verdict.reason)
        why = verdict.reason or (f"rule {reader.rule}" if reader.rule else "")
        _LOG.log(
            _LEVELS.get(verdict.ending, logging.INFO),
            "read of %s by %s: %s in %.2f s%s",
            place.path,
            reader.asker,
            verdict.ending,
            waited,
            f" ({why})" if why else "",
        )

    # -- under the lock ------------------------------------------------------------------------------------------------

    def _take(self, job: Job, reader: Reader) -> None:
        del job.readers[reader]
        self._waiting -= 1

    def _take_all(self, job: Job) -> list[Reader]:
        readers = list(job.readers)
        for reader in readers:
            self._take(job, reader)
        return readers

    def _drop(self, job: Job) -> None:
        """Forget a job that no worker has."""
        self._queue.remove(job)
        del self._jobs[job.key]
        os.close(job.fd)

    # -- working -------------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while (job := self._next()) is not None:
            try:
                self._serve(job)
            except Exception as error:
                _LOG.exception("recalling %s failed", job.place.path)
                self._finish(job, Ending.FAILED, f"a defect: {error}")

    def _next(self) -> Job | None:
        with self._work_to_do:
            while not self._queue and not self._stopping:
                self._work_to_do.wait()
            if self._stopping:
                return None
            job = self._queue.pop()
            job.stage = Stage.DECODING
            return job

    def _serve(self, job: Job) -> None:
        request = Request(job.fd, job.place, f"{READ_BY}{self._askers(job)}")
        try:
            outcome = recall_open_file(self._site, request, _Progress(self, job))
        except (FileBusy, Unwanted):  # perhaps somebody has come since it was asked who wants it
            self._try_again_later(job)
            return
        except (ArchiverError, OSError) as error:
            if isinstance(error, DeadlineMissed) and self._decode_again(job):
                return
            failure = from_os_error(error, job.place.path) if isinstance(error, OSError) else error
            if job.stage is Stage.COMMITTING:
                # Only the catalog could not be told: the journal has it, and the next reconcile tells it.
                self._finish(job, Ending.RECALLED)
            else:
                self._finish(job, Ending.FAILED, failure.message)
            self._write_down(job.place, request.asker, failure)
            return
        self._finish(job, Ending.RECALLED if outcome.result is Result.DONE else Ending.THERE, outcome.reason)

    def _askers(self, job: Job) -> str:
        with self._lock:
            others = len(job.readers) - 1
        return printable(f"{job.first}" + (f" and {others} more" if others > 0 else ""))

    def _finish(self, job: Job, ending: Ending, reason: str = "") -> None:
        with self._lock:
            if self._jobs.get(job.key) is not job:
                return  # it was finished before what has failed now
            del self._jobs[job.key]
            if ending is Ending.RECALLED:
                self._budget.spend()
            readers = self._take_all(job)
            os.close(job.fd)
        self._tell_all(readers, ending, reason)

    def _try_again_later(self, job: Job) -> None:
        """Another archiver process acts on the file, perhaps recalls it; or nobody waited any more, a moment ago."""

        def again() -> None:
            with self._lock:
                if self._jobs.get(job.key) is job and not self._stopping:
                    self._queue.push(job, job.priority, job.owner)
                    self._work_to_do.notify()

        with self._lock:
            job.stage = Stage.WAITING
            if not job.readers or self._stopping:
                self._drop(job)
                return
        self._vigil.at(time.monotonic() + _BUSY_RETRY, again)

    def _decode_again(self, job: Job) -> bool:
        """For those who came after the decode had begun, and can wait longer; False where there are none."""
        with self._lock:
            again = any(job.deadline is None or reader.deadline > job.deadline for reader in job.readers)
            if again:
                job.stage = Stage.WAITING
                self._queue.push(job, job.priority, job.owner)
                self._work_to_do.notify()
            return again

    def _write_down(self, place: Place, asker: str, failure: ArchiverError) -> None:
        tier_id = self._site.tier_ids[place.tier.name] if place.tier else None
        try:
            row = self._site.catalog.find(tier_id, place.relative) if tier_id is not None else None
            self._site.catalog.audit(
                Act.FAILED,
                tier_id=tier_id,
                file_id=row.id if row else None,
                path=None if row else place.relative or None,
                detail=f"recall {asker}: {failure.message}",
            )
        except ArchiverError as error:
            _LOG.warning("a failed recall of %s could not be written down: %s", place.path, error.message)

    # -- what a worker reports -----------------------------------------------------------------------------------------

    def decode(self, job: Job, record: Record) -> Generated:
        """The picture of a job's record, at the job's priority. Raises Unwanted when the desk ends before."""
        engine = self._site.engine  # which may take a while, and is not to be opened by what is left to itself
        with self._lock:
            if self._stopping:
                raise Unwanted
            deadline = max((reader.deadline for reader in job.readers), default=None)
            picture = job.picture = Future[Generated]()
            job.deadline, priority = deadline, job.priority

        def generate() -> None:
            try:
                generated = engine.generate([record], priority=priority, deadline=deadline)[0]
            except Exception as error:
                if picture.set_running_or_notify_cancel():
                    picture.set_exception(error)
            else:
                if picture.set_running_or_notify_cancel():
                    picture.set_result(generated)

        # A thread of its own: an engine cannot be told that nobody waits any more, so it is left to itself then.
        threading.Thread(target=generate, name="desk-decode", daemon=True).start()
        try:
            return picture.result()
        except CancelledError:
            raise Unwanted from None
        finally:
            with self._lock:
                job.picture = None  # it is large, and a thread knows its job until it has the next one

    def begin_to_write(self, job: Job) -> bool:
        """Whether anybody still waits for the file."""
        with self._lock:
            wanted = bool(job.readers)
            if wanted:
                job.stage = Stage.WRITING
            return wanted

    def has_written(self, job: Job) -> None:
        """The whole image stands there: nobody waits for the catalog, which the journal tells should we not."""
        with self._lock:
            job.stage = Stage.COMMITTING
            readers = self._take_all(job)
        self._tell_all(readers, Ending.RECALLED)

    # -- reporting -----------------------------------------------------------------------------------------------------

    def report(self) -> Report:
        """Everything that `archiver status --recalls` shows, but for what the connection knows."""
        with self._lock:
            queued = [job.told() for job in self._queue]
            under_way = [job.told() for job in self._jobs.values() if job.stage is not Stage.WAITING]
            waiting = Counter(
                (printable(reader.asker.name), reader.asker.user)
                for job in self._jobs.values()
                for reader in job.readers
            )
            readers, recalls = self._waiting, self._budget.count()
        ended = self.history.last_hour()
        totals = sum(ended.values(), Counter[Ending]())
        return Report(
            mode=self._settings.mode,
            responder=False,
            watches=(),
            under_way=tuple(under_way[:_SHOWN]),
            queued=tuple(queued[:_SHOWN]),
            files_under_way=len(under_way),
            files_queued=len(queued),
            readers=readers,
            shares=tuple(_shares(waiting, ended)[:_SHOWN]),
            counted=round(self.history.seconds, 3),
            last_hour=recalls,
            per_hour=self._settings.per_hour,
            refused=totals[Ending.REFUSED],
            full=totals[Ending.FULL],
            failed=totals[Ending.FAILED],
            late=totals[Ending.LATE],
        )


def _make_room(descriptors: int) -> None:
    """Each reader has two of them, and one that cannot be received would end the connection it came by."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = descriptors + _OTHERS
    if hard != resource.RLIM_INFINITY and hard < wanted:
        _LOG.warning(
            "%d descriptors are too few for all readers that may wait; %d would do (LimitNOFILE=)", hard, wanted
        )
        wanted = hard
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class _Progress:
    """What one recall asks and tells."""

    def __init__(self, desk: RecallDesk, job: Job) -> None:
        self._desk, self._job = desk, job

    def decode(self, record: Record) -> Generated:
        return self._desk.decode(self._job, record)

    def is_wanted(self) -> bool:
        return self._desk.begin_to_write(self._job)

    def written(self) -> None:
        self._desk.has_written(self._job)


def _shares(waiting: Counter[_Who], ended: dict[_Who, Counter[Ending]]) -> list[Share]:
    """Who causes how much, the most waiting first."""
    shares = []
    for who in waiting.keys() | ended.keys():
        past = ended.get(who, Counter())
        share = Share(
            process=who[0],
            user=who[1],
            waiting=waiting[who],
            recalled=past[Ending.RECALLED] + past[Ending.THERE],
            placeholder=past[Ending.PLACEHOLDER],
            refused=past[Ending.REFUSED],
            failed=past[Ending.FAILED] + past[Ending.LATE] + past[Ending.FULL],
        )
        shares.append(share)
    return sorted(shares, key=lambda share: (-share.waiting, -share.recalled, share.process, share.user))
