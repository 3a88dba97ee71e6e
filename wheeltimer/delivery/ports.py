"""The durable engine as delivery uses it. Delivery imports neither ``shard`` nor ``daemon``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from wheeltimer.core.engine import Engine
from wheeltimer.core.outcome import Answer
from wheeltimer.core.task import Now, Task


class TaskSource(Protocol):
    """The methods of ``DurableEngine`` that `Dispatcher` and its parts call."""

    @property
    def engine(self) -> Engine: ...
    @property
    def now(self) -> Callable[[], Now]: ...
    def start(self, key: str, task: Task, now: Now) -> bool: ...
    def outcome(self, key: str, answer: Answer, now: Now) -> None: ...
    def lapsed(self, key: str, now: Now) -> bool: ...
    def dropped(self, key: str) -> None: ...
    def give_up(self, key: str) -> bool: ...
