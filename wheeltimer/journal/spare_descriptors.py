"""Descriptors kept for the journal, so that it can open a file when the process has none left.

They are open on /dev/null. One is closed just before a file is opened, and a file of the journal that is
closed becomes one again if there are too few. Another thread may take the freed descriptor before
the file is opened: so there are several, and if all are lost in that way the caller gets the error.
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
"""None left for the process, or for the whole system."""
_P = ParamSpec("_P")
_T = TypeVar("_T")


class SpareDescriptors:
    """``count`` descriptors. Safe from several threads. Raises :class:`OSError` if the system has fewer."""

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
        """The result of a call that opens one descriptor. Raises what it raises once none is in hand."""
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
        """Closes a file. If there are too few in hand its descriptor is kept: dup2 never sets it free."""
        with self._lock:
            if len(self._fds) < self._wanted:
                os.dup2(self._null, fd, inheritable=False)
                self._fds.append(fd)
                return
        os.close(fd)

    def let_go(self) -> None:
        """Closes all of them; from then on :meth:`close` closes."""
        with self._lock:
            self._wanted = 0
            for fd in (*self._fds, self._null):
                os.close(fd)
            self._fds.clear()

    def _give_one(self) -> bool:
        """Closes one for the call that follows; False if there is none."""
        with self._lock:
            if not self._fds:
                return False
            os.close(self._fds.pop())
            return True

    def _fill(self) -> None:
        """Opens those that are missing, as far as the system has them."""
        with self._lock:
            while len(self._fds) < self._wanted:
                try:
                    self._fds.append(os.dup(self._null))
                except OSError:
                    return
