"""Descriptors kept for the journal, so that it can open a file when the process has none left.

They are open on /dev/null. If a call finds no free descriptor, one of them is closed and the call repeated;
when a file of the journal is closed and spares are missing, its descriptor becomes one. Another thread may
take the freed descriptor first: so there are several, and if all are lost in this way the caller gets the
error.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from typing import Final, ParamSpec, TypeVar

COUNT: Final = 4
"""One for a spare segment, two for readers, one more in case another thread takes one."""
NO_DESCRIPTOR: Final = frozenset({errno.EMFILE, errno.ENFILE})
"""Errors if the process, or the whole system, has no descriptor left."""
_P = ParamSpec("_P")
_T = TypeVar("_T")


class SpareDescriptors:
    """Holds ``count`` descriptors. Thread-safe. Raises :class:`OSError` if the system has fewer."""

    def __init__(self, count: int = COUNT) -> None:
        self._lock = threading.Lock()
        self._null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self._wanted = count
        self._fds: list[int] = []
        try:
            for _ in range(count):
                self._fds.append(os.dup(self._null))
        except OSError:
            self.let_go()
            raise

    def __len__(self) -> int:
        return len(self._fds)

    def call(self, function: Callable[_P, _T], *given: _P.args, **more: _P.kwargs) -> _T:
        """The result of a call that opens one descriptor. Raises its error if no spare one is left."""
        while True:
            try:
                result = function(*given, **more)
            except OSError as error:
                if error.errno not in NO_DESCRIPTOR or not self._give_one():
                    raise
            else:
                self._fill()
                return result

    def close(self, fd: int) -> None:
        """Closes a file. If spares are missing its descriptor becomes one: dup2 never frees the number."""
        with self._lock:
            if len(self._fds) < self._wanted:
                os.dup2(self._null, fd, inheritable=False)
                self._fds.append(fd)
                return
        os.close(fd)

    def let_go(self) -> None:
        """Closes all spares; later calls of :meth:`close` keep none."""
        with self._lock:
            self._wanted = 0
            for fd in (*self._fds, self._null):
                os.close(fd)
            self._fds.clear()

    def _give_one(self) -> bool:
        """Closes one spare for the next call; False if there is none."""
        with self._lock:
            if not self._fds:
                return False
            os.close(self._fds.pop())
            return True

    def _fill(self) -> None:
        """Opens missing spares, until the system has no more."""
        with self._lock:
            while len(self._fds) < self._wanted:
                try:
                    self._fds.append(os.dup(self._null))
                except OSError:
                    return
