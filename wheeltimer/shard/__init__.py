"""Durable state: one engine and its journal, from startup through commits to compaction.

Files::

    durable.py    reserve space, apply, append, notify: the one place where decisions are carried out
    startup.py    replays the journal into the engine
    ticker.py     wakes at the next deadline and hands due keys over; measures lateness
    compactor.py  copies live tasks out of the oldest segments, so that those can be removed
"""
