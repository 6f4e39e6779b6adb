from __future__ import annotations

import pytest

from sommelier.connectors.licenses import spdx


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("MIT", "MIT"),
        ("mit license", "MIT"),
        ("The MIT License", "MIT"),
        ("apache-2.0", "Apache-2.0"),
        ("Apache License, Version 2.0", "Apache-2.0"),
        ("License :: OSI Approved :: Apache Software License", "Apache-2.0"),
        ("BSD-3-Clause", "BSD-3-Clause"),
        ("cc-by-nc-sa-4.0", "CC-BY-NC-SA-4.0"),
        ("(mit OR apache-2.0) and isc", "(MIT OR Apache-2.0) AND ISC"),
        ("BSD", None),
        ("Apache", None),
        ("MIT OR Bob's", None),
        ("AND", None),
        ("", None),
        ("Permission is hereby granted, free of charge, " * 10, None),
    ],
)
def test_a_licence_is_named_by_its_spdx_identifier_or_not_at_all(
    text: str, expected: str | None
) -> None:
    assert spdx(text) == expected
