"""Benchmarks of the daemon from outside: real processes, loopback TCP, real files.

``python -m benchmarks NAME`` runs one; ``bench.sh`` runs them all and writes one report. Each measures a
daemon of its own in a temporary folder (``TMPDIR``) and leaves nothing behind.

``harness.py``   processes, a small client, percentiles; ``machine.py``: facts about where it runs
``writers.py``   many connections, each with many requests under way, from one process
``receiver.py``  where callbacks arrive: a process that notes the instant of each first byte
``listeners.py`` many connections that only listen, subscribed or idle
``timed.py``     tasks due soon, and how late they arrived
``report.py``    figures to text, JSON and one report
the rest         one benchmark per file: ``run(options)`` gives its figures
"""
