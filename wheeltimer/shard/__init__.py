"""Durable state: one engine and its journal, from startup through commits to compaction.

Files::

    startup.py    the journal back into the engine
    compactor.py  keeps the journal small
    ticker.py     wakes the wheels
    lateness.py   how late they were
    soon.py       the process, its surroundings, its end
"""
