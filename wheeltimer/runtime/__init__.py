"""The machine: clocks, the timer, time slices of the loop, the log.

Files::

    clock.py        the clocks of deadlines, the boot id, the time namespace
    loop_clock.py   Trio's clock, for a process that may be stopped
    timer.py        waits for an instant (timerfd)
    time_slices.py  shares the loop: interactive connections before bulk work
    log_writer.py   standard error, written by a thread
    ratelog.py      rate-limited log lines
"""
