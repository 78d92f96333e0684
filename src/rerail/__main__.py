"""``rerail``, and ``python -m rerail``: the command line, Ctrl-C while it is imported included."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command line and exit with its code."""
    try:
        _hold_standard_streams()
        from rerail.cli import main as run

        run()
    except KeyboardInterrupt:
        if sys.stderr is not None:
            print("stopped", file=sys.stderr)
        sys.exit(130)


def _hold_standard_streams() -> None:
    """Where one is closed, no file opened later may take its number, and what is said to it."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free


if __name__ == "__main__":
    main()
