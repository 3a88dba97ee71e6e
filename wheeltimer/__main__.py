"""``python -m wheeltimer``: the same as the ``wheeltimer`` command."""

from wheeltimer.cli import main

if __name__ == "__main__":
    main(prog_name="wheeltimer")
