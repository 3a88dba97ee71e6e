"""Gates that open at an instant: a token that comes, a hold that is over."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heappop, heappush
from itertools import count

from wheeltimer.delivery.lanes import Gate


class Alarms:
    """At most one valid alarm for each gate: ``gate.look_ns`` is the truth, the heap its order."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Gate]] = []  # (elapsed ns, number, gate)
        self._number = count()

    @property
    def next_ns(self) -> int | None:
        """The earliest instant at which to look; it may be that of a gate that was set to an earlier one."""
        return self._heap[0][0] if self._heap else None

    def set(self, gate: Gate, at_ns: int) -> None:
        """Wake the gate at this instant, unless it is woken before: then it is looked at again."""
        if gate.look_ns is None or at_ns < gate.look_ns:
            gate.look_ns = at_ns
            heappush(self._heap, (at_ns, next(self._number), gate))

    def due(self, now_ns: int) -> Iterator[Gate]:
        """Gates whose instant has come, each once."""
        while self._heap and self._heap[0][0] <= now_ns:
            at_ns, _, gate = heappop(self._heap)
            if gate.look_ns == at_ns:
                gate.look_ns = None
                yield gate
