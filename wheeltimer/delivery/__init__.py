"""Outgoing HTTP: which attempt may go, what it sends, how it gets there. No state of a task is kept
here: the ledger (``ports.py``) gets the begin of an attempt, and its outcome as a value.

A callback goes down this list, and its answer back up::

    dispatcher.py  who may go now: permits, windows, fairness    share.py     of how many permits (pure)
    entry.py       whether a lane may start something now
    lanes.py       what waits, by queue and destination          window.py    what one destination can bear
    outage.py      tasks of destinations that are down           alarms.py    gates that open at an instant
    stale.py       keys of tasks that are ready no longer        ports.py     the ledger, as seen from here
    callback.py    one attempt: the request of a task, the answer as a value; signature.py signs it
    shortage.py    what of our own an attempt may lack               lapses.py    attempts that lacked it
    executor.py    replies on kept connections, awaited by one task for all
    transport.py   requests over kept or fresh connections       proxy.py     the same through an egress proxy
    pool.py        kept connections                              resolve.py   lookup, check, connect
    http_connection.py one open connection
    reply.py       its bytes, under caps (pure)
"""
