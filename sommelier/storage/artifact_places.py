"""Where the model files of databases may lie: the address of a store, in one spelling."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from sommelier.errors import StorageError

MARK = "sommelier-store.json"  # the object that says a place is a store
LOCAL = "local"  # the folder beside the database
_ALIASES = {"s3a": "s3", "gcs": "gs"}
_BUCKETS = ("s3", "gs")
_EXAMPLES = "s3://bucket/models, gs://bucket/models, file:///mnt/models or https://host/models"


@dataclass(frozen=True, slots=True)
class Place:
    """A store of model files that databases may share. address : as it is kept and compared."""

    address: str

    @property
    def protocol(self) -> str:
        """As fsspec calls it: 's3', 'gs', 'file', 'https', 'memory' ..."""
        return self.address.partition("://")[0]

    @property
    def read_only(self) -> bool:
        """Whether files can be fetched from it only."""
        return self.protocol in ("http", "https")

    @property
    def id(self) -> str:
        """16 hexadecimal digits that tell its cache from those of others."""
        return hashlib.sha256(self.address.encode()).hexdigest()[:16]

    def __str__(self) -> str:
        return f"'{self.address}'"


def place_of(text: str) -> Place | None:
    """The store a person names; None for 'local', the folder beside the database.

    A path without a scheme is a folder of this machine. Raises StorageError for what is no address,
    and for one that holds a password or a signature: the address is kept in the database.

    >>> place_of("s3a://bucket/models/"), place_of("local")
    (Place(address='s3://bucket/models'), None)
    """
    if text == LOCAL:
        return None
    if "::" in text:
        raise StorageError(
            f"the store '{_shown(text)}' is several addresses in one", hint=f"write {_EXAMPLES}"
        )
    if not re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text):
        return Place(f"file://{_folder(text)}")
    scheme, _, rest = text.partition("://")
    protocol = _ALIASES.get(scheme.lower(), scheme.lower())
    _check_no_secret(text)
    if protocol in ("file", "local"):
        return Place(f"file://{_folder(rest)}")
    path = re.sub(r"/+", "/", rest).rstrip("/")
    if not path.strip("/"):
        what = "names no bucket" if protocol in _BUCKETS else "is no address"
        raise StorageError(f"'{text}' {what}", hint=f"write for example {_EXAMPLES}")
    return Place(f"{protocol}://{path}")


def _folder(text: str) -> str:
    if not text.strip():
        raise StorageError("the store of the model files has no name", hint=f"write {_EXAMPLES}")
    return Path(text).expanduser().absolute().as_posix().rstrip("/") or "/"


def _check_no_secret(text: str) -> None:
    parts = urlsplit(text)
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise StorageError(
            f"the address of a store is kept in the database, so '{_shown(text)}' can have no name,"
            " password or signature in it",
            hint="credentials come from the environment, as AWS_PROFILE, or from fsspec's settings",
        )


def _shown(text: str) -> str:
    """An address without what may be secret.

    >>> _shown("https://me:pw@host/models?signature=1f")
    'https://host/models'
    """
    return re.sub(r"[?#].*", "", re.sub(r"//[^/@]*@", "//", text))
