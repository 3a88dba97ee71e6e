"""Locks that keep a second process off a folder, in addition to the lock file in it.

The lock file can be deleted while a daemon runs. A lock on the folder itself cannot, and a socket name that
is made of the path is still held if the folder was deleted and made again. Either may be missing: some file
systems lock no folders, and a process in another network or mount namespace does not see the name. Then only
the lock file is left. A copy of a folder in use has another inode and another path, so it is not locked.
"""

from __future__ import annotations

import errno
import hashlib
import os
import socket
import struct
from contextlib import suppress
from pathlib import Path
from typing import Final

NO_LOCKS: Final = frozenset(
    {errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EACCES}
)
"""Errors of flock(2) on a file system that cannot lock folders."""
_CREDENTIALS: Final = struct.Struct("=3i")  # pid, uid, gid: unix(7), SO_PEERCRED


def hold_path(path: Path) -> int | None:
    """A descriptor that holds the path's name, an abstract Unix socket, until it is closed; None if the
    system has no such names.

    Raises :class:`BlockingIOError` if a process of the same user holds it. Such names have no permissions,
    so if another user holds the name, the daemon starts nevertheless.
    """
    name = _name_of(path)
    if name is None:
        return None
    try:
        held = socket.socket(socket.AF_UNIX)
    except OSError:
        return None
    try:
        held.bind(name)
        held.listen(1)
    except OSError as exc:
        held.close()
        if exc.errno == errno.EADDRINUSE and _holder_uid(name) == os.geteuid():
            raise BlockingIOError(errno.EAGAIN, "the path is held") from exc
        return None
    return held.detach()


def _name_of(path: Path) -> bytes | None:
    """The name of a path: a hash of it, of the mount namespace and of the root. Containers may share a
    network but no files."""
    try:
        root = os.stat("/")
        where = f"{os.readlink('/proc/self/ns/mnt')} {root.st_dev} {root.st_ino} {os.path.realpath(path)}"
    except OSError:
        return None
    return b"\0wheeltimer-" + hashlib.sha256(os.fsencode(where)).hexdigest().encode()


def _holder_uid(name: bytes) -> int | None:
    with suppress(OSError), socket.socket(socket.AF_UNIX) as asking:
        asking.setblocking(False)
        asking.connect(name)
        given = asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        return int(_CREDENTIALS.unpack(given)[1])
    return None
