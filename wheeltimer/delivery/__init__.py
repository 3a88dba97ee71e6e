"""Callbacks out: which attempt may start, what it sends, how it gets there. Tasks are not kept here.

``ports.py`` has what this room asks of the engine: ready keys in, the start and the outcome of attempts out.
A callback goes down this list, and its answer back up::

    dispatcher.py       starts attempts: permits, the order of lanes
    lanes.py            keys that wait, by queue and destination, and what a lane may wait for
    entry.py            whether a lane may start an attempt now
    window.py           how many attempts one destination gets, of its own window and of all permits
    outage.py           tasks of destinations that are down
    shortage.py         what an attempt may lack on this machine; lapses.py: attempts that lacked it
    callback.py         one attempt: the request of a task, the answer as a value
    executor.py         replies on kept connections, awaited by one nursery task for all
    transport.py        requests over kept or new connections; proxy.py: the same through an egress proxy
    pool.py             kept connections
    resolve.py          lookup, check, connect; authorities.py: is there any CA certificate
    http_connection.py  one open connection
    reply.py            its bytes, under caps (pure); oddhead.py: odd but harmless heads; coding.py: gzip
"""
