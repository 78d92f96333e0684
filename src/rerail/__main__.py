"""``python -m rerail`` is ``rerail``."""

from rerail.cli import main

if __name__ == "__main__":
    main()
