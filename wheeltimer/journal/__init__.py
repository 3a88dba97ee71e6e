"""The journal: what was decided, on disk, and read back after a crash. Records are opaque bytes here.

Its whole life, and all that callers may use (the tools of the command line have files of their own)::

    journal = Journal.open(path, clock=clock)       # blocking: locks, verifies, makes the tail writable
    for frame in journal.replay():                  # blocking: every batch, once, in order
        ...                                         # frame.payload: one msgpack array of the records
    await nursery.start(journal.run)                # commits until close(); raises StorageFailed

    if journal.reserve(size):                       # room first, then decide for good
        lsn = journal.append(records, size)         # one decision, never split; or release(size)
    await journal.wait_durable(lsn)                 # or look at durable_lsn in an on_durable callback
    await journal.close()                           # clean stop

``append`` hands over at once when the disk is free. Who has a slice of decisions to append passes
``hold=True`` and calls ``flush()`` after the slice: one commit then takes them all. The end of a commit
takes what is held as well, and so does ``wait_durable``.

Data goes down this list and comes back up by lsn::

    file_log.py    open, replay, let go
    committer.py   batches, who waits (in the loop)
    capacity.py    what may be appended, taken before it is decided
    worker.py      the threads that block
    trim_policy.py which segments to give up next, by size alone
    writer.py      one frame: encode, write, sync; seal and rotate; the tail made anew (in the thread)
    preallocation.py segments to come
    recovery.py    folder -> what it holds; torn or damaged
    follower.py    durable batches as they come, for subscribers
    directory.py   lock, names, publishing a file
    segment.py     one file: header, walk over its frames (pure)
    frame.py       one batch: bytes (pure)
    disk.py        the system calls
    holding.py     the lock of a folder, and whether the folder is still there
    spare_descriptors.py    descriptors kept for when none are left

Beside the plan, and why: frames start on sector boundaries and keep a slot for their marker in their
last sector, instead of markers being frames in the chain. A batch then never shares a sector with
another, a lost marker leaves no hole, and a lost sector never hides two frames. ``docs/journal-format.md``
has the bytes.
"""

from .capacity import UNSYNCED_BYTES_MAX
from .disk import Disk
from .file_log import SEGMENT_BYTES, SEGMENT_BYTES_LEAST, Journal
from .follower import Follower, Trimmed
from .frame import Clocks, Frame
from .segment import Boot
from .trim_policy import Sealed, history_bytes, is_urgent, segments_to_drop
from .worker import InlineWorker, Worker, WorkerThread

__all__ = [
    "SEGMENT_BYTES",
    "SEGMENT_BYTES_LEAST",
    "UNSYNCED_BYTES_MAX",
    "Boot",
    "Clocks",
    "Disk",
    "Follower",
    "Frame",
    "InlineWorker",
    "Journal",
    "Sealed",
    "Trimmed",
    "Worker",
    "WorkerThread",
    "history_bytes",
    "is_urgent",
    "segments_to_drop",
]
