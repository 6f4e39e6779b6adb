"""What is kept of another library's error."""

from __future__ import annotations

import pytest

from sommelier.errors import first_line


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("one\ntwo", "one"),
        ("\n  one  \n", "one"),
        ("one\r\ntwo", "one"),
        ("x" * 400, "x" * 300),
        ("", "ValueError"),
        (" \n ", "ValueError"),
    ],
)
def test_the_first_line_of_an_error_is_short_and_never_empty(message, line):
    assert first_line(ValueError(message)) == line
