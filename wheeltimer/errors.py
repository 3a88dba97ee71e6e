"""Every error that wheeltimer raises for something the world did.

A broken invariant is a bug and asserts; what is listed here is normal input from clients, disks,
networks and operators, translated once, in the shell that met it.

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
    ├── AttemptError           an exchange brought no reply (delivery/http_connection.py; becomes a value)
    ├── Shortage               an attempt could not begin: our own shortage (delivery/shortage.py)
    ├── ServerUnreachable      a client found no daemon                              exit 69
    └── ClientMisused          a client, or an iterator of it, was entered when it cannot answer
"""

from __future__ import annotations

import re
from typing import ClassVar, Final

_SECRET: Final = re.compile(r"whsec_[A-Za-z0-9+/=_-]+")


class WheeltimerError(Exception):
    """Root of the tree; ``exit_code`` is what the process ends with when nothing handles it."""

    exit_code = 1

    def __reduce__(self) -> tuple[object, ...]:
        """Errors cross process pools as they are, whatever their constructors take."""
        return _rebuilt, (type(self), self.args, self.__dict__)


def _rebuilt(
    kind: type[WheeltimerError], args: tuple[object, ...], state: dict[str, object]
) -> WheeltimerError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error


class BadValue(WheeltimerError, ValueError):
    """A value from outside does not fit; ``field`` names where it stood (``""`` when unknown)."""

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
        """The daemon's own sentence."""
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
    """The daemon asks for a token, or does not know this one."""

    CODE = "unauthorized"


class Forbidden(RefusedWith):
    """The token does not allow this op or queue."""

    CODE = "forbidden"


class NotFound(RefusedWith):
    """The queue knows no task with this id."""

    CODE = "not_found"


class Exists(RefusedWith):
    """The id is known with other content."""

    CODE = "exists"


class Conflict(RefusedWith):
    """``if_version`` is another, or the task's state does not allow it."""

    CODE = "conflict"


class TooLate(RefusedWith):
    """The task has ended; ``extra["state"]`` is how."""

    CODE = "too_late"


class Full(RefusedWith):
    """No room just now; ``extra["retry_after_ms"]`` if the daemon knows when to ask again."""

    CODE = "full"


class Draining(RefusedWith):
    """The daemon is stopping and takes no new work."""

    CODE = "draining"


class Lagged(RefusedWith):
    """Events after the cursor are no longer kept; ``extra["cursor"]`` is the oldest that is."""

    CODE = "lagged"


class TargetBlocked(RefusedWith):
    """A callback address is outside the networks that the settings allow; names the setting."""

    CODE = "target_blocked"


class Storage(RefusedWith):
    """The daemon's disk failed; whether the request was carried out is unknown."""

    CODE = "storage"


class Unavailable(RefusedWith):
    """Nobody here can answer just now; nothing was done. ``extra["retry_after_ms"]``."""

    CODE = "unavailable"


REFUSALS: Final[dict[str, type[RefusedWith]]] = {kind.CODE: kind for kind in RefusedWith.__subclasses__()}
"""The exception of each error code of the protocol."""


class SettingsError(WheeltimerError):
    """A setting is unknown, out of bounds or unreadable; the message names it and says what to do.

    What stands there may be a secret in the wrong place: no message shows one.
    """

    exit_code = 78

    def __init__(self, message: str) -> None:
        super().__init__(_SECRET.sub("whsec_...", message))


class ListenError(WheeltimerError):
    """An address cannot be listened on."""

    exit_code = 71


class JournalError(WheeltimerError):
    """Something about the journal's folder or files."""


class JournalDamaged(JournalError):
    """Acknowledged data does not read back: names file, offset and the command that repairs.

    ``file``, ``offset`` and ``lsn`` say it once more, for programs.
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

    ``lasting``: it is not that the daemon is away, so trying again does not help.
    """

    exit_code = 69

    def __init__(self, message: str, *, lasting: bool = False) -> None:
        super().__init__(message)
        self.lasting = lasting


class ClientMisused(WheeltimerError, RuntimeError):
    """A client was entered again inside its own exchange, or an iterator of it after a fork."""
