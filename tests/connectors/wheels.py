"""Wheels made for a test: zip files with a METADATA, as a package index would serve them."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

METADATA = """Metadata-Version: 2.1
Name: {name}
Version: {version}
License-Expression: MIT
Project-URL: Homepage, https://example.org/{name}
Summary: A toy — for tests
"""


def write_wheel(
    folder: Path,
    members: Mapping[str, bytes],
    *,
    name: str = "toy_models",
    version: str = "1.0",
    metadata: str = METADATA,
    compression: int = zipfile.ZIP_DEFLATED,
) -> Path:
    """folder/name-version-py3-none-any.whl with these members and the metadata."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", compression) as archive:
        for member, content in members.items():
            archive.writestr(member, content)
        if metadata:
            text = metadata.format(name=name, version=version)
            archive.writestr(f"{name}-{version}.dist-info/METADATA", text)
    return path
