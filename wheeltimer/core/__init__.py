"""The rules of tasks, pure: no I/O, no clock; time and random numbers are arguments.

Reading order, from the fields of a task to the requests that change it::

    task.py            the fields of a task, and a reading of the clocks
    states.py          the table of moves between states, and what a move changes in the task
    row.py             the packed form at rest: which letter each field has
    wheel.py           the timer: ticks, buckets, rounds
    timers.py          a wheel of timers of this run and one of timers that a start found
    store.py           all rows, and all that is derived from them: timers, counts, groups, retention
    records.py         what happened: the journal's records
    engine.py          the store and ``apply``: the only place that changes state
    schedule.py, control.py, outcome.py    requests and answers to records
    schedule_batch.py  many plain new tasks at once
    queries.py         ``get``, ``list``, ``stats``, ``forecast``
    record_events.py   records to the lines that subscribers get
    copies.py          what compaction writes again
    replay.py, replay_filter.py    what an earlier run wrote
    policy.py, access.py, addresses.py    retry rules by name, tokens, which addresses may be called
    invariants.py      everything that is derived, derived again; for tests
"""
