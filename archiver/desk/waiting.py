"""The queue of recalls: interactive before bulk, and whoever asks for much does not keep others waiting."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

from archiver.decoder.engine import Priority

T = TypeVar("T", bound=Hashable)


class FairQueue(Generic[T]):
    """Items by priority; within one, those of different owners take turns, each owner's in their order.

    Not safe for threads by itself.
    """

    def __init__(self) -> None:
        self._lanes: dict[Priority, OrderedDict[Hashable, OrderedDict[T, None]]] = {
            one: OrderedDict() for one in Priority
        }
        self._places: dict[T, tuple[Priority, Hashable]] = {}

    def push(self, item: T, priority: Priority, owner: Hashable) -> None:
        """Put an item behind the others of its owner."""
        self._lanes[priority].setdefault(owner, OrderedDict())[item] = None
        self._places[item] = (priority, owner)

    def pop(self) -> T:
        """The next item. Raises IndexError when there is none."""
        for lanes in self._lanes.values():
            if lanes:
                owner, lane = lanes.popitem(last=False)
                item, _ = lane.popitem(last=False)
                if lane:
                    lanes[owner] = lane  # behind the other owners
                del self._places[item]
                return item
        raise IndexError("an empty queue")

    def remove(self, item: T) -> bool:
        """Take an item out; False where it was not in."""
        place = self._places.pop(item, None)
        if place is None:
            return False
        priority, owner = place
        lane = self._lanes[priority][owner]
        del lane[item]
        if not lane:
            del self._lanes[priority][owner]
        return True

    def hasten(self, item: T, priority: Priority, owner: Hashable) -> None:
        """Somebody with more right to it wants a queued item, too."""
        place = self._places.get(item)
        if place is not None and priority < place[0]:
            self.remove(item)
            self.push(item, priority, owner)

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[T]:
        """Every item, the most urgent lanes first."""
        for lanes in self._lanes.values():
            for lane in lanes.values():
                yield from lane
