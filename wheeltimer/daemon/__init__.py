"""The process: clocks, timers, TCP, and the composition root (``run.py``).

``shard/durable.py`` is where decisions become true; everything else brings it inputs or carries its results
out::

    run.py         the parts, started in order and drained       build.py     made of the settings
    descriptors.py how descriptors are shared out, and clients for whom there is none
    signals.py, process.py, drain.py    the process, its surroundings, its end
    deaths.py      what is logged, and how that never holds the loop
"""
