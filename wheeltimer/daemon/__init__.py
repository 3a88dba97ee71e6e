"""The process: clocks, timers, TCP, and the composition root (``run.py``).

``shard/durable.py`` is where decisions become true; everything else brings it inputs or carries its results
out::

    run.py         the parts, started in order and drained       parts.py     made of the settings
    listeners.py   addresses                                     server.py    all connections
    connection.py  one: bytes in, slices of work                 outbox.py    replies out, when durable
    requests.py    what a line asks for                          bulk.py      what touches any number of tasks
    rights.py      what tokens allow
    subscriptions.py, subscriber.py   events as they happen, and what was missed
    tls.py, guests.py, farewell.py    who may stay, and how they end
    descriptors.py, overflow.py       how descriptors are shared out, and clients for whom there is none
    signals.py, notify.py, drain.py    the process, its surroundings, its end
    deaths.py      what is logged, and how that never holds the loop
"""
