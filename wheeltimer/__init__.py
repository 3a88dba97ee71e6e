"""wheeltimer: call me back at this URL in 30 minutes, for sure and on time."""

__version__ = "0.1.0"
