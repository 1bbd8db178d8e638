"""Who a mount asks for images: a recall desk of its own, for readers that come through FUSE."""

from __future__ import annotations

from concurrent.futures import Future

from archiver.desk.asker import Asker
from archiver.desk.desk import RecallDesk
from archiver.desk.jobs import Verdict
from archiver.lifecycle.site import Site


class RecallsHere:
    """Recalls by this process, under the same rules and limits as the daemon's."""

    def __init__(self, site: Site) -> None:
        self._desk = RecallDesk(site)
        self._desk.start()

    def ask(self, fd: int, pid: int) -> Future[int]:
        """See archiver.access.fuse.Recalls."""
        answer: Future[int] = Future()

        def tell(verdict: Verdict) -> None:
            if answer.set_running_or_notify_cancel():
                answer.set_result(verdict.errno)

        reader = self._desk.ask(fd, Asker.of(pid), tell)
        answer.add_done_callback(lambda answer: self._desk.withdraw(reader) if answer.cancelled() else None)
        return answer

    def close(self) -> None:
        """Answer all who wait; what is being written is finished."""
        self._desk.stop()
