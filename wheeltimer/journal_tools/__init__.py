"""Offline tools, which read the journal's files and decode the records in them.

Files::

    check.py    verifies a journal as a start does, also beside a running daemon
    reader.py   the frames of a folder, in order
    dump.py     records as lines of JSON
    salvage.py  frames that can be read in a damaged segment
    repair.py   a new journal of all records that can be read
"""
