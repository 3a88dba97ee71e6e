"""The process: the composition root, its parts, signals and the service manager.

Files::

    run.py      starts the parts in order, drains them, gives the exit code
    build.py    parts made of the settings
    process.py  signals, the service manager, file descriptors
    deaths.py   one log line for each task that ends ``dead``, limited by queue and destination
"""
