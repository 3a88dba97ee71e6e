"""The process: clocks, timers, TCP, and the composition root (``run``).

``ledger`` is where decisions become true; everything else brings it inputs or carries its results out.
"""
