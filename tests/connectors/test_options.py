"""USING options as connectors read them: what is no size is refused in words."""

from __future__ import annotations

import pytest

from sommelier.connectors import options as opt
from sommelier.errors import ConnectorError


@pytest.mark.parametrize(
    ("value", "size"),
    [("500 MB", 500 * 10**6), ("1.5 KiB", 1536), ("7", 7), (7.9, 7), (None, 3)],
)
def test_a_size_is_a_number_of_bytes_or_a_text_with_its_unit(value: object, size: int) -> None:
    assert opt.size({"max_size": value}, "max_size", 3) == size


@pytest.mark.parametrize(
    "value", ["inf", "nan", "1e999 MB", "-1", 0, True, 10**400, float("inf"), [5]]
)
def test_what_no_file_can_have_is_no_size(value: object) -> None:
    with pytest.raises(ConnectorError, match="must be a size above 0"):
        opt.size({"max_size": value}, "max_size", 3)
