from __future__ import annotations

import pytest

from sommelier.connectors.licenses import hub_license, spdx


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
        ("gpl-3.0", "GPL-3.0-only"),
        ("agpl-3.0", "AGPL-3.0-only"),
        ("lgpl-3.0", "LGPL-3.0-only"),
        ("gpl-2.0", "GPL-2.0-only"),
        ("cc-by-nc-sa-3.0", "CC-BY-NC-SA-3.0"),
        ("cdla-permissive-2.0", "CDLA-Permissive-2.0"),
        ("openrail", None),
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


@pytest.mark.parametrize(
    ("stated", "word"),
    [
        ("GPL-3.0-only", "gpl-3.0"),
        ("Apache License, Version 2.0", "apache-2.0"),
        ("odc-by", "odc-by"),
        ("llama3.1", "llama3.1"),
        ("GPL-3.0-or-later", None),
        ("MIT OR Apache-2.0", None),
        ("acme-1", None),
    ],
)
def test_the_hub_is_asked_for_a_licence_by_its_own_word_or_not_at_all(
    stated: str, word: str | None
) -> None:
    assert hub_license(stated) == word
    if word is not None:
        assert spdx(word) == spdx(stated)
