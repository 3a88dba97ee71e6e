"""The machine: clocks, waiting for an instant, time slices of the loop, rate-limited logging.

Files::

    clock.py        reads the clocks that tasks go by
    timer.py        waits for an instant
    time_slices.py  the loop, shared by those who bring work
    log_writer.py   what is logged, and how that never holds the loop
    ratelog.py      log lines that others can cause, counted; the daemon has some too
"""
