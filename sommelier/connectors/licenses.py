"""Licence names as people write them -> SPDX identifiers (https://spdx.org/licenses), and the words
that the Hugging Face Hub has for them."""

from __future__ import annotations

import re

_IDENTIFIERS = {
    name.lower(): name
    for name in (
        "0BSD", "AFL-3.0", "AGPL-3.0-only", "AGPL-3.0-or-later", "Apache-2.0", "Artistic-2.0",
        "BSD-2-Clause", "BSD-3-Clause", "BSD-3-Clause-Clear", "BSL-1.0", "CC0-1.0", "CC-BY-3.0",
        "CC-BY-4.0", "CC-BY-SA-3.0", "CC-BY-SA-4.0", "CC-BY-NC-4.0", "CC-BY-ND-4.0",
        "CC-BY-NC-SA-4.0", "CC-BY-NC-ND-4.0", "ECL-2.0", "EPL-2.0", "EUPL-1.2", "GPL-2.0-only",
        "GPL-2.0-or-later", "GPL-3.0-only", "GPL-3.0-or-later", "ISC", "LGPL-2.1-only",
        "LGPL-2.1-or-later", "LGPL-3.0-only", "LGPL-3.0-or-later", "MIT", "MIT-0", "MPL-2.0",
        "MS-PL", "NCSA", "ODbL-1.0", "OFL-1.1", "PSF-2.0", "PostgreSQL", "Python-2.0", "Unlicense",
        "WTFPL", "Zlib",
    )
}  # fmt: skip

_SPELLINGS = {
    "apache": None,  # which version is not said
    "apache 2": "Apache-2.0",
    "apache 2.0": "Apache-2.0",
    "apache2": "Apache-2.0",
    "apache license 2": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "apache license version 2.0": "Apache-2.0",
    "apache software license": "Apache-2.0",  # the trove classifier; only 2.0 has wheels
    "apache software license 2.0": "Apache-2.0",
    "mit license": "MIT",
    "expat": "MIT",
    "bsd 2-clause": "BSD-2-Clause",
    "bsd-2": "BSD-2-Clause",
    "simplified bsd": "BSD-2-Clause",
    "bsd 3-clause": "BSD-3-Clause",
    "bsd-3": "BSD-3-Clause",
    "new bsd": "BSD-3-Clause",
    "isc license (iscl)": "ISC",
    "isc license": "ISC",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
    "mpl 2.0": "MPL-2.0",
    "gplv3": "GPL-3.0-only",
    "gnu general public license v3 (gplv3)": "GPL-3.0-only",
    "gnu general public license v3 or later (gplv3+)": "GPL-3.0-or-later",
    "gnu general public license v2 (gplv2)": "GPL-2.0-only",
    "gnu lesser general public license v3 (lgplv3)": "LGPL-3.0-only",
    "gnu affero general public license v3": "AGPL-3.0-only",
    "cc by 4.0": "CC-BY-4.0",
    "cc by-sa 4.0": "CC-BY-SA-4.0",
    "cc by-nc 4.0": "CC-BY-NC-4.0",
    "cc by-nc-sa 4.0": "CC-BY-NC-SA-4.0",
    "cc0": "CC0-1.0",
    "cc0 1.0 universal (cc0 1.0) public domain dedication": "CC0-1.0",
    "the unlicense (unlicense)": "Unlicense",
    "python software foundation license": "PSF-2.0",
}

_HUB = {
    "afl-3.0": "AFL-3.0", "agpl-3.0": "AGPL-3.0-only", "apache-2.0": "Apache-2.0",
    "artistic-2.0": "Artistic-2.0", "bsd-2-clause": "BSD-2-Clause", "bsd-3-clause": "BSD-3-Clause",
    "bsd-3-clause-clear": "BSD-3-Clause-Clear", "bsl-1.0": "BSL-1.0", "c-uda": "C-UDA-1.0",
    "cc-by-2.0": "CC-BY-2.0", "cc-by-2.5": "CC-BY-2.5", "cc-by-3.0": "CC-BY-3.0",
    "cc-by-4.0": "CC-BY-4.0", "cc-by-nc-2.0": "CC-BY-NC-2.0", "cc-by-nc-3.0": "CC-BY-NC-3.0",
    "cc-by-nc-4.0": "CC-BY-NC-4.0", "cc-by-nc-nd-3.0": "CC-BY-NC-ND-3.0",
    "cc-by-nc-nd-4.0": "CC-BY-NC-ND-4.0", "cc-by-nc-sa-2.0": "CC-BY-NC-SA-2.0",
    "cc-by-nc-sa-3.0": "CC-BY-NC-SA-3.0", "cc-by-nc-sa-4.0": "CC-BY-NC-SA-4.0",
    "cc-by-nd-4.0": "CC-BY-ND-4.0", "cc-by-sa-3.0": "CC-BY-SA-3.0", "cc-by-sa-4.0": "CC-BY-SA-4.0",
    "cc0-1.0": "CC0-1.0", "cdla-permissive-1.0": "CDLA-Permissive-1.0",
    "cdla-permissive-2.0": "CDLA-Permissive-2.0", "cdla-sharing-1.0": "CDLA-Sharing-1.0",
    "ecl-2.0": "ECL-2.0", "epl-1.0": "EPL-1.0", "epl-2.0": "EPL-2.0",
    "etalab-2.0": "etalab-2.0", "eupl-1.1": "EUPL-1.1", "eupl-1.2": "EUPL-1.2",
    "gpl-2.0": "GPL-2.0-only", "gpl-3.0": "GPL-3.0-only", "isc": "ISC",
    "lgpl-2.1": "LGPL-2.1-only", "lgpl-3.0": "LGPL-3.0-only", "lppl-1.3c": "LPPL-1.3c",
    "mit": "MIT", "mpl-2.0": "MPL-2.0", "ms-pl": "MS-PL", "ncsa": "NCSA", "odbl": "ODbL-1.0",
    "odc-by": "ODC-By-1.0", "ofl-1.1": "OFL-1.1", "osl-3.0": "OSL-3.0", "pddl": "PDDL-1.0",
    "postgresql": "PostgreSQL", "unlicense": "Unlicense", "wtfpl": "WTFPL", "zlib": "Zlib",
}  # fmt: skip
"""The hub's words for licences that SPDX has (huggingface.co/docs/hub/repositories-licenses).
Its gpl-3.0 is SPDX's former GPL-3.0, which SPDX reads as GPL-3.0-only."""
_HUB_ALONE = frozenset(
    {
        "apple-amlr", "apple-ascl", "bigcode-openrail-m", "bigscience-bloom-rail-1.0",
        "bigscience-openrail-m", "bsd", "cc", "creativeml-openrail-m", "deepfloyd-if-license",
        "fair-noncommercial-research-license", "gemma", "gfdl", "gpl", "h-research",
        "intel-research", "lgpl", "lgpl-lr", "llama2", "llama3", "llama3.1", "llama3.2",
        "llama3.3", "llama4", "openrail", "openrail++", "other",
    }
)  # fmt: skip
"""Its words for licences that SPDX does not have, or of which the version is not said."""
_HUB_WORDS = {identifier: word for word, identifier in _HUB.items()}
_NAMED = {**_IDENTIFIERS, **{name.lower(): name for name in _HUB.values()}, **_HUB}

_OPERATORS = {"and": "AND", "or": "OR", "with": "WITH"}
_LONGEST = 200  # a License field may hold a whole licence text


def spdx(text: str) -> str | None:
    """The SPDX expression that `text` names, or None if it is not recognised.

    >>> spdx("Apache License, Version 2.0"), spdx("mit"), spdx("BSD")
    ('Apache-2.0', 'MIT', None)
    >>> spdx("mit or apache-2.0"), spdx("License :: OSI Approved :: MIT License")
    ('MIT OR Apache-2.0', 'MIT')
    """
    name = text.rsplit("::", 1)[-1].strip()
    if not name or len(name) > _LONGEST:
        return None
    plain = re.sub(r"[\s,]+", " ", name.lower()).removeprefix("the ").strip()
    for candidate in (plain, plain.removesuffix(" license"), plain.removesuffix(" licence")):
        known = _NAMED.get(candidate) or _SPELLINGS.get(candidate)
        if known:
            return known
    return _expression(name)


def hub_license(text: str) -> str | None:
    """The hub's own word for a licence, by which it can be asked for; None where it has none.

    >>> hub_license("GPL-3.0-only"), hub_license("Apache License 2.0"), hub_license("openrail")
    ('gpl-3.0', 'apache-2.0', 'openrail')
    >>> hub_license("GPL-3.0-or-later")
    """
    if text in _HUB_ALONE:
        return text
    known = spdx(text)
    return None if known is None else _HUB_WORDS.get(known)


def _expression(name: str) -> str | None:
    """An expression of known identifiers, such as 'MIT OR (Apache-2.0 AND ISC)', respelled."""
    words = re.findall(r"[()]|[^\s()]+", name)
    out = []
    for word in words:
        known = _NAMED.get(word.lower()) or _OPERATORS.get(word.lower())
        if known is None and word not in "()":
            return None
        out.append(known or word)
    if len(words) < 2 or not any(word in _OPERATORS.values() for word in out):
        return None
    return " ".join(out).replace("( ", "(").replace(" )", ")")
