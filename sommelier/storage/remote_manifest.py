"""What an artifact in a store consists of: the last thing that is written there, so that with it
everything is there, and the first that is read.

    {"format": 1, "files": [{"name": "model.onnx", "size": 1000, "sha256": "1f0c..."}, ...]}
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath

from sommelier.errors import StorageError
from sommelier.storage.artifacts import MANIFEST, combined

FORMAT = 1


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """name : relative to the artifact, with /. size : bytes. sha256 : 64 hexadecimal digits."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class RemoteManifest:
    """files : the model's first, then its external data in order."""

    files: tuple[RemoteFile, ...]

    @property
    def key(self) -> str:
        """The key of an artifact of these contents."""
        return combined([file.sha256 for file in self.files])

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @classmethod
    def from_json(cls, text: str | bytes) -> RemoteManifest:
        """Raises StorageError for what is no manifest, one of a newer version, and one that names
        files outside the artifact's folder."""
        try:
            fields = json.loads(text)
            version, entries = fields["format"], fields["files"]
            files = tuple(RemoteFile(f["name"], f["size"], f["sha256"]) for f in entries)
        except (ValueError, KeyError, TypeError) as error:
            raise StorageError(f"it is no {MANIFEST} of a model file") from error
        if version != FORMAT:
            raise StorageError(
                f"its {MANIFEST} has format {version}, this version of Sommelier reads {FORMAT}"
            )
        for file in files:
            _check(file)
        if not files or len({file.name for file in files}) < len(files):
            raise StorageError(f"its {MANIFEST} names no files, or one of them twice")
        return cls(files)

    def to_json(self) -> str:
        return json.dumps({"format": FORMAT, "files": [asdict(file) for file in self.files]})


def _check(file: RemoteFile) -> None:
    """A store is written by others too: a name must not lead out of the folder, nor a size be any
    other than a number."""
    name, own = file.name, (MANIFEST, "in-use.lock")
    plain = (
        isinstance(name, str)
        and name == PurePosixPath(name).as_posix()
        and not re.match(r"/|[A-Za-z]:", name)
        and not set(name) & {"\\", "\0"}
        and not {".", ".."} & set(PurePosixPath(name).parts)
        and PurePosixPath(name).parts[0].casefold() not in own
    )
    if not plain:
        raise StorageError(f"its {MANIFEST} names a file that cannot be one of it: {name!r:.100}")
    if type(file.size) is not int or file.size < 0:
        raise StorageError(f"its {MANIFEST} has no size of '{name}'")
    if not isinstance(file.sha256, str) or not re.fullmatch("[0-9a-f]{64}", file.sha256):
        raise StorageError(f"its {MANIFEST} has no digest of '{name}'")
