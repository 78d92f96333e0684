"""``python -m tsalign`` is ``tsalign``."""

from tsalign.cli import main

if __name__ == "__main__":
    main()
