"""The process: clocks, timers, TCP, and the composition root (``run.py``).

``ledger.py`` is where decisions become true; everything else brings it inputs or carries its results out::

    run.py         the parts, started in order and drained       parts.py     made of the settings
    recovery.py    the journal back into the engine              compaction.py keeps the journal small
    clock.py       reads the clocks that tasks go by             timerfd.py   waits for an instant
    ticker.py      wakes the wheels                              lateness.py  how late they were
    listeners.py   addresses                                     server.py    all connections
    connection.py  one: bytes in, slices of work                 outbox.py    replies out, when durable
    requests.py    what a line asks for                          bulk.py      what touches any number of tasks
    turn.py        the loop, shared among connections            rights.py    what tokens allow
    subscriptions.py, subscriber.py   events as they happen, and what was missed
    tls.py, guests.py, farewell.py    clients: handshake, how many, and how connections end
    descriptors.py, overflow.py       how descriptors are shared out, and clients for whom there is none
    signals.py, notify.py, drain.py, soon.py    the process, its surroundings, its end
    logs.py, deaths.py    what is logged, and how that never holds the loop
"""
