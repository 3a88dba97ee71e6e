"""The journal: decisions on disk, and read back after a crash. Records are opaque bytes here.

Its whole life, and all that callers may use (the command line's tools are in ``journal_tools``)::

    journal = Journal.open(path, clock=clock)       # blocking: locks, verifies, makes the tail writable
    for frame in journal.replay():                  # blocking: every batch, once, in order
        ...                                         # frame.payload: one msgpack array of the records
    await nursery.start(journal.run)                # commits until close(); raises StorageFailed

    if journal.reserve(size):                       # reserve space first, then decide
        lsn = journal.append(records, size)         # one decision, never split; or release(size)
    await journal.wait_durable(lsn)                 # or look at durable_lsn in an on_durable callback
    await journal.close()                           # clean stop

``append`` starts a commit at once if the worker is idle. A caller with several decisions passes
``hold=True`` and calls ``flush()`` after the last one: one commit then takes them all. The end of a commit
and ``wait_durable`` also start the commit of held records.

From the API down to the system calls::

    file_log.py    open, replay, close
    committer.py   batches and waiters (in the loop)
    capacity.py    space for decisions, reserved before they are made
    worker.py      the threads that block
    trim_policy.py which segments to remove next, by size alone
    writer.py      one frame: encode, write, sync; seal and rotate; the tail rewritten (in the thread)
    preallocation.py spare segments, made in advance
    recovery.py    folder -> its content; torn or damaged
    follower.py    batches as they become durable, for subscribers
    directory.py   lock, names, publishing a file
    segment.py     one file: header, walk over its frames (pure)
    frame.py       one batch: bytes (pure)
    disk.py        the system calls
    holding.py     locks of the folder and of its path
    spare_descriptors.py    descriptors kept for when none are left

Frames start on sector boundaries and keep a slot for their marker in their last sector; markers are not
frames in the chain. So a batch never shares a sector with another, a lost marker leaves no hole, and a lost
sector never hides two frames. ``docs/journal-format.md`` has the bytes.
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
