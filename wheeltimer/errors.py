"""Every error that wheeltimer raises for a cause outside of it.

A broken invariant is a bug and fails an assertion; the errors here are for faults of requests, disks,
networks and settings, and each is made in the module that met the fault.

::

    WheeltimerError
    ├── BadValue               a value from outside does not fit (carries the field's name)
    ├── Refused                a request the daemon answers with an error code
    │   └── NotFound, ...      one for each code: REFUSALS
    ├── SettingsError          a flag, variable or configuration key is wrong        exit 78 (flags: 2)
    ├── ListenError            an address cannot be listened on                      exit 71
    ├── JournalError
    │   ├── JournalDamaged     acknowledged data does not read back                  exit 65
    │   ├── JournalNewer       written by a later version of wheeltimer              exit 65
    │   ├── JournalInUse       another process holds the folder, or it is not ours   exit 73
    │   └── StorageFailed      a read, write or sync failed                          exit 74
    ├── AttemptError           an exchange got no reply (delivery/http_connection.py; becomes a value)
    ├── Shortage               an attempt could not begin: our own shortage (delivery/shortage.py)
    ├── ServerUnreachable      a client found no daemon                              exit 69
    └── ClientMisused          a client, or an iterator of it, was entered when it cannot answer
"""

from __future__ import annotations

import re
from typing import ClassVar, Final

_SECRET: Final = re.compile(r"whsec_[A-Za-z0-9+/=_-]+")


class WheeltimerError(Exception):
    """Root of the tree; ``exit_code`` is the process's if nothing handles the error."""

    exit_code = 1

    def __reduce__(self) -> tuple[object, ...]:
        """Makes errors picklable for process pools, whatever arguments their constructors take."""
        return _rebuilt, (type(self), self.args, self.__dict__)


def _rebuilt(
    kind: type[WheeltimerError], args: tuple[object, ...], state: dict[str, object]
) -> WheeltimerError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error


class BadValue(WheeltimerError, ValueError):
    """A value from outside does not fit; ``field`` names its field (``""`` if unknown)."""

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class Refused(WheeltimerError):
    """A request that the daemon refuses: ``code`` is one of the protocol's error codes.

    ``extra`` holds the reply's further members (``field``, ``state``, ``version``, ``due``,
    ``retry_after_ms``) if they apply. The clients raise the subclass of the code (``REFUSALS``), and
    ``Refused`` itself for a code of a later daemon; their text has op, queue, id and code before the daemon's
    own ``message``.
    """

    said: str | None = None  # the daemon's message, if the text has more

    def __init__(self, code: str, message: str, /, **extra: object) -> None:
        super().__init__(message)
        self.code = code
        self.extra = extra

    @property
    def message(self) -> str:
        """The daemon's own message."""
        return str(self) if self.said is None else self.said


class RefusedWith(Refused):
    """A refusal with the code of its class; base of the classes below."""

    CODE: ClassVar[str] = "internal"

    def __init__(self, message: str, /, **extra: object) -> None:
        super().__init__(self.CODE, message, **extra)


class BadRequest(RefusedWith):
    """A line that is no request, or a field that does not fit; ``extra["field"]`` names it."""

    CODE = "bad_request"


class LineTooLong(RefusedWith):
    """A request of more bytes than ``line_bytes_max``."""

    CODE = "line_too_long"


class Unauthorized(RefusedWith):
    """The daemon needs a token, or this one is not configured."""

    CODE = "unauthorized"


class Forbidden(RefusedWith):
    """The token does not allow this op or queue."""

    CODE = "forbidden"


class NotFound(RefusedWith):
    """The queue has no task with this id."""

    CODE = "not_found"


class Exists(RefusedWith):
    """A task with this id and other content exists."""

    CODE = "exists"


class Conflict(RefusedWith):
    """``if_version`` is not the task's version, or the task's state does not allow the request."""

    CODE = "conflict"


class TooLate(RefusedWith):
    """The task has ended; ``extra["state"]`` is its state."""

    CODE = "too_late"


class Full(RefusedWith):
    """No room at present; ``extra["retry_after_ms"]`` if the daemon suggests when to ask again."""

    CODE = "full"


class Draining(RefusedWith):
    """The daemon is stopping and takes no new work."""

    CODE = "draining"


class Lagged(RefusedWith):
    """Events after the cursor are no longer kept; ``extra["cursor"]`` is the oldest that can be used."""

    CODE = "lagged"


class TargetBlocked(RefusedWith):
    """A callback address is outside the networks that the settings allow; the message names the setting."""

    CODE = "target_blocked"


class Storage(RefusedWith):
    """The daemon's disk failed; whether the request was carried out is unknown."""

    CODE = "storage"


class Unavailable(RefusedWith):
    """The daemon cannot answer at present; nothing was done. See ``extra["retry_after_ms"]``."""

    CODE = "unavailable"


REFUSALS: Final[dict[str, type[RefusedWith]]] = {kind.CODE: kind for kind in RefusedWith.__subclasses__()}
"""The exception of each error code of the protocol."""


class SettingsError(WheeltimerError):
    """A setting is unknown, out of bounds or unreadable; the message names it and how to correct it.

    Its value may be a secret in the wrong place: secrets are removed from the message.
    """

    exit_code = 78

    def __init__(self, message: str) -> None:
        super().__init__(_SECRET.sub("whsec_...", message))


class ListenError(WheeltimerError):
    """An address cannot be listened on."""

    exit_code = 71


class JournalError(WheeltimerError):
    """A fault of the journal's folder or files; see the classes below."""


class JournalDamaged(JournalError):
    """Acknowledged data does not read back: the message names file, offset and the command that repairs.

    ``file``, ``offset`` and ``lsn`` are for programs.
    """

    exit_code = 65

    def __init__(self, message: str, file: str = "", offset: int = 0, lsn: int = 0) -> None:
        super().__init__(message)
        self.file, self.offset, self.lsn = file, offset, lsn


class JournalNewer(JournalError):
    """The journal was written by a later version; it is not touched."""

    exit_code = 65


class JournalInUse(JournalError):
    """The data folder is held by another process, or cannot be written."""

    exit_code = 73


class StorageFailed(JournalError):
    """A read, write or sync failed: what was not acknowledged may or may not be stored."""

    exit_code = 74


class ServerUnreachable(WheeltimerError):
    """No daemon answered at the address the client was given.

    ``lasting``: the cause is not an absent daemon, so another try does not help.
    """

    exit_code = 69

    def __init__(self, message: str, *, lasting: bool = False) -> None:
        super().__init__(message)
        self.lasting = lasting


class ClientMisused(WheeltimerError, RuntimeError):
    """A client was entered again inside its own exchange, or an iterator of it after a fork."""
