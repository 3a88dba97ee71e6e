"""What clients send and receive, without I/O: requests, replies, values and their limits, the wire.

Files::

    wire.py       bytes to lines, a line to a request, a reply to a line; every refusal of a line
    requests.py   one struct per op, and the checks of its fields
    replies.py    one struct per reply
    events.py     one struct per kind of event
    task_view.py  the state and the attempts of a task, as clients see them
    retry.py, success.py    retry rules and success rules; replyjson.py: JSON of receivers
    units.py, hosts.py, ids.py, limits.py    durations and instants, hosts, ids, bounds
    twice.py      duplicate fields; hints.py: "did you mean"; foreign.py: other protocols
    schema.py     all of it as JSON Schema
"""
