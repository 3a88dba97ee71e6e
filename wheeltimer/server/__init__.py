"""Clients in: listeners, connections, what a line asks for, replies and subscriptions.

Files::

    listeners.py                     addresses
    server.py                        all connections
    connection.py                    one: bytes in, slices of work
    send_queue.py                    replies out, when durable
    service.py                       what a line asks for
    scans.py                         what touches any number of tasks
    authorization.py                 what tokens allow
    subscriptions.py, subscriber.py  events as they happen, and what was missed
    tls.py, guests.py, farewell.py   who may stay, and how they end
    overflow.py                      how descriptors are shared out, and clients for whom there is none
"""
