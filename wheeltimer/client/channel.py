"""``Channel``: a blocking client's connection in one process, the calls on it, and their lock.

An *exchange* is: take the lock, send the lines that wait, read replies until one call has its own, release
the lock. Each reply that is read goes to its call, so calls of other threads and streams are answered too.
The lock is never held across a ``yield``.

An exception may end an exchange at any bytecode: a signal handler raises, a greenlet is killed. A line may
then be half read, so the connection is closed. If that exchange could not close it, ``_busy`` is still
set and the next exchange closes it. In addition the ``seq`` of every reply is checked (``pipeline.py``).
"""

from __future__ import annotations

import os
import threading
import time
from typing import Final

from wheeltimer.client.pipeline import (
    BACKOFF_FIRST_S,
    BACKOFF_MAX_S,
    PASSING,
    Call,
    Caller,
    NoReply,
    Pipeline,
    Reply,
)
from wheeltimer.client.place import Place
from wheeltimer.client.sync_stream import LineConnection
from wheeltimer.errors import ClientMisused, Refused, ServerUnreachable

_AGAIN_INSIDE: Final = (
    "this client is in the middle of a request of the same thread or greenlet: a signal handler or a"
    " finalizer that calls it needs a client of its own"
)
OF_THE_PARENT: Final = (
    "this iterator was begun before a fork, and its replies belong to the parent process; begin one here"
)


def may_pass(error: ServerUnreachable | Refused, pipeline: Pipeline) -> bool:
    """Whether another try to connect can help after one that failed with ``error``."""
    if isinstance(error, Refused):
        return error.code in PASSING
    return pipeline.greeted or not error.lasting


def longer(wait_s: float) -> float:
    """How long to wait before the next try to connect."""
    return min(max(2 * wait_s, BACKOFF_FIRST_S), BACKOFF_MAX_S)


class OwnedLock:
    """A lock that raises an error, instead of a deadlock, if the thread or greenlet that holds it asks again.

    A signal handler may call the client at any bytecode, so ``enter`` records the caller before the lock is
    taken, and ``leave`` removes it after the lock was released. If gevent has replaced ``threading``, owners
    are greenlets.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._ident = threading.get_ident
        self._inside: set[int] = set()  # threads that hold the lock or wait for it
        self._owner = 0  # the one of these that holds it; 0 also just before and just after that

    def enter(self) -> int:
        """Call before the lock is taken, and hand the result to ``leave``. Raises ClientMisused."""
        ident = self._ident()
        if ident not in self._inside:
            self._inside.add(ident)
            return ident
        if self.lock.locked() and self._owner in (0, ident):
            raise ClientMisused(_AGAIN_INSIDE)
        return 0  # a signal handler in a thread that waits for the lock, and so is in `_inside` already

    def leave(self, entered: int) -> None:
        """Call after the lock was released, with what ``enter`` returned."""
        self._inside.discard(entered)

    def begin(self) -> None:
        """Call after the lock was taken."""
        self._owner = self._ident()

    def end(self) -> None:
        """Call just before the lock is released."""
        self._owner = 0


class Channel:
    """The connection and the calls of one process; safe between threads, greenlets and interrupts."""

    def __init__(self, place: Place) -> None:
        self.pid = os.getpid()
        self._place = place
        self._pipeline = Pipeline(place.server)
        self._owned = OwnedLock()
        self._busy = False  # during an exchange; True between two: an exception ended the last one
        self._connection: LineConnection | None = None
        self._over: ServerUnreachable | None = None  # why no request can be sent any more
        self._lost_s: float | None = None  # when the connection was lost; None after the next answer
        self._wait_s = 0.0  # before the next try to connect
        self._unreached: Exception | None = None  # why the last try failed

    def ask(self, op: str, request: Reply) -> Call:
        """One request and its answer."""
        call = self._pipeline.make(op, request, Caller())
        self._exchange(call)
        return call

    def begin(self, op: str, request: Reply, stream: Caller) -> Call:
        """A request of a stream: the next exchange sends it."""
        self._same_process()
        if self._over is not None:
            raise self._over
        call = self._pipeline.make(op, request, stream)
        self._pipeline.fresh.append(call)
        return call

    def finish(self, call: Call) -> Call:
        """Wait for the answer of a call that was begun."""
        self._same_process()
        if not call.done:
            self._exchange(call)
        return call

    def close(self) -> None:
        """Close the connection; calls without an answer end with an error."""
        self._over = self._place.over()
        if self._connection is not None:
            self._connection.interrupt()  # ends an exchange of another thread
        try:
            entered = self._owned.enter()
        except ClientMisused:
            return
        try:
            with self._owned.lock:
                self._pipeline.give_up("the client was closed")
                if self._connection is not None:
                    self._connection.close()
                    self._connection = None
        finally:
            self._owned.leave(entered)

    def forget(self) -> None:
        """In a child process: close its copy of the socket and send nothing; the parent keeps the
        connection."""
        if self._connection is not None:
            self._connection.close()

    # -- inside an exchange ----------------------------------------------------------------------

    def _same_process(self) -> None:
        if os.getpid() != self.pid:
            raise ClientMisused(OF_THE_PARENT)

    def _exchange(self, call: Call) -> None:
        """Send and read until this call is done."""
        entered = self._owned.enter()
        try:
            with self._owned.lock:
                self._exchange_alone(call)
        finally:
            self._owned.leave(entered)

    def _exchange_alone(self, call: Call) -> None:
        """`_exchange` with the lock held."""
        try:
            self._owned.begin()
            if self._busy:
                self._break_off()
            self._busy = True
            if self._over is not None:
                self._busy = False
                raise self._over
            self._prepare(call)
            while not call.done:
                self._step()
            self._busy = False
        except BaseException:
            call.caller.left = True
            if self._busy:
                self._break_off()
                self._busy = False
            raise
        finally:
            self._owned.end()

    def _prepare(self, call: Call) -> None:
        pipeline = self._pipeline
        if not pipeline.calls and not pipeline.fresh:
            self._lost_s, self._wait_s = None, 0.0
        if not pipeline.calls and self._connection is not None and self._connection.gone:
            self._lose("the daemon closed the connection")  # no call was on it, so none is lost
            if self._over is not None:
                raise self._over
        if call.caller.single:
            pipeline.fresh.append(call)

    def _step(self) -> None:
        """Read the replies that have come, at least one, or try once to connect."""
        if self._over is not None:
            self._pipeline.give_up("the client was closed")
            return
        if self._connection is None:
            self._connect()
            return
        line = b""
        try:
            self._connection.put(self._pipeline.outgoing())
            for line in self._connection.read_lines():
                if self._pipeline.take(line) is None:
                    self._lose("its storage failed")
                    return
            self._lost_s, self._wait_s = None, 0.0
        except OSError as error:
            self._lose(error)
        except NoReply as error:
            self._lose(f"not a reply: {error}", self._pipeline.no_daemon(line))

    def _lose(self, why: object, final: ServerUnreachable | None = None) -> None:
        """The connection is gone: a late answer would be taken for the next request's."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._over is not None:
            return  # the client was closed meanwhile
        if final is not None or not self._place.reconnect_s:
            self._over = self._place.over()
            self._pipeline.give_up(why, final)
        else:
            if self._lost_s is None:
                self._lost_s = time.monotonic()
            else:  # lost again before any answer
                self._wait_s = longer(self._wait_s)
            self._pipeline.lost(why)

    def _break_off(self) -> None:
        """An exception ended an exchange: drop its connection. May be called twice."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._lost_s, self._wait_s = None, 0.0
        self._pipeline.leave()
        self._pipeline.lost("another request on it was interrupted")

    def _connect(self) -> None:
        """Try once to connect. After ``reconnect_s`` of failures all calls end; the next one tries again."""
        now_s = time.monotonic()
        if self._lost_s is None:
            self._lost_s = now_s
        elif now_s - self._lost_s > self._place.reconnect_s:
            self._give_up(self._unreached)
            return
        time.sleep(self._wait_s)
        try:
            self._connection = self._place.connect()
        except (ServerUnreachable, Refused) as error:
            if not self._place.reconnect_s or not may_pass(error, self._pipeline):
                self._give_up(error)
                return
            self._unreached = error
            self._wait_s = longer(self._wait_s)

    def _give_up(self, error: Exception | None) -> None:
        self._pipeline.give_up(f"and not back within {self._place.reconnect_s:g} s", unsent=error)
        self._lost_s, self._wait_s, self._unreached = None, 0.0, None
