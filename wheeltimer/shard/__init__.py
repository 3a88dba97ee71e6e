"""Durable state: one engine and its journal, from startup through commits to compaction.

Files::

    durable.py    reserve room, apply, append, notify: the one place where a decision becomes true
    startup.py    the journal back into the engine
    ticker.py     wakes at the next deadline and hands due keys over; counts how late
    compactor.py  copies live tasks out of the oldest segments, so that those can go
"""
