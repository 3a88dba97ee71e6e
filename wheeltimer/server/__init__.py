"""The clients' side: connections, requests, replies once they are durable, subscriptions.

A request goes down this list, and its reply back up::

    listeners.py                     addresses, and a bounded rate of accepts
    rejection.py                     clients that cannot stay, and connections for which no descriptor is left
    server.py                        all connections: how many, from which address, how they end
    tls.py                           TLS before ``connection.py``, over a socket pair
    connection.py                    one connection: bytes in, lines, time slices
    send_queue.py                    its replies, in order, each when it is durable
    client_memory.py                 memory that all clients make the daemon hold, under one bound
    admission.py                     when a request may be decided
    service.py                       decides requests and makes their replies
    scans.py                         requests that may touch any number of tasks, slice by slice
    authorization.py                 what tokens allow, and ``tasks_max``
    subscriptions.py, subscriber.py  events of the journal to all subscribers, and one subscriber
"""
