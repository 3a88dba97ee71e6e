"""Callbacks out: which attempt may start, what it sends, how it gets there. Tasks are not kept here.

``ports.py`` declares what delivery calls on the durable engine: is a task ready, start and outcome of
attempts. A callback goes down this list, and its answer back up::

    dispatcher.py       starts attempts: permits, the order of lanes
    lanes.py            keys that wait, by queue and destination, and the constraints that they wait for
    entry.py            whether a lane may start an attempt now
    window.py           how many attempts one destination gets: its window, and its share of all permits
    outage.py           tasks of destinations that are down
    shortage.py         what this machine may lack for an attempt; lapses.py: attempts that lapsed for it
    callback.py         one attempt: the request of a task, the answer as a value
    executor.py         replies on kept connections, awaited by one nursery task for all
    transport.py        requests over kept or new connections; proxy.py: the same through an egress proxy
    pool.py             kept connections
    resolve.py          lookup, check, connect; authorities.py: whether there is any CA certificate
    http_connection.py  one open connection
    reply.py            its bytes, under caps (pure); oddhead.py: odd but harmless heads; coding.py: gzip
"""
