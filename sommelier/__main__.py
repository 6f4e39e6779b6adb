"""`python -m sommelier` is the `sommelier` command."""

from __future__ import annotations

import sys

from sommelier.shell.cli import main

if __name__ == "__main__":
    sys.exit(main())
