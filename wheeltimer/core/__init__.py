"""The rules of tasks, pure: no I/O, no clock, no chance; time and random numbers come in as arguments.

Reading order: ``task`` (fields, states, moves), ``records`` (what happened), ``engine`` (state and
``apply``), ``protocol.requests`` and ``protocol.wire`` (what is asked), ``schedule``, ``control`` and
``outcome`` (inputs to records), ``schedule_batch`` (many plain new tasks at once), ``wheel``. The others are
small parts of these.
"""
