"""Offline tools that know both the journal's files and the records: check, dump, repair.

Files::

    reader.py  the same for tools
    check.py   recovery's verdict beside a running daemon
    dump.py    records to read
    repair.py  what can be read of a damaged journal, anew; salvage.py, core/replay_filter.py, rewriting.py
               serve it
"""
