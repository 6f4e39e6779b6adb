"""The exit codes of the `sommelier` command."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What the process tells its caller."""

    OK = 0
    QUERY_ERROR = 1  # a statement failed
    USAGE = 2  # wrong flags, an unreadable configuration, a database that cannot be opened
    INTERRUPTED = 130  # Ctrl-C (128 + SIGINT)
    BROKEN_PIPE = 141  # the reader of our output went away (128 + SIGPIPE); nothing is printed
