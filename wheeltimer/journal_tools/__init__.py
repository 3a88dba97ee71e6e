"""Offline tools, the only ones that know both the journal's files and the records in them.

Files::

    check.py    recovery's verdict, also beside a running daemon
    reader.py   the frames of a folder, in order
    dump.py     records as lines of JSON
    salvage.py  frames that can be read in a damaged segment
    repair.py   a new journal of what could be read
"""
