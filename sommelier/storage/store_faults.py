"""What other libraries raise about a store, as errors of ours: what failed, why, what to do.

fsspec's file systems raise OSErrors, and what botocore, aiohttp or google-auth raise; these are
told apart by their names, for none of them is imported here. No message passes with a credential.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from sommelier.errors import SommelierError, StorageError, first_line

_SECRETS = re.compile(r"SECRET|TOKEN|PASSWORD|ACCESS_KEY|CREDENTIAL|API_KEY|PASSPHRASE", re.I)
_NO_LOGIN = (
    "NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "CredentialRetrievalError",
    "DefaultCredentialsError", "RefreshError", "TokenRetrievalError", "SSOTokenLoadError",
    "UnauthorizedSSOTokenError",
)  # fmt: skip
_NO_ANSWER = (
    "EndpointConnectionError", "ConnectTimeoutError", "ReadTimeoutError", "ConnectionClosedError",
    "ClientConnectorError", "ClientConnectionError", "ServerDisconnectedError", "ClientOSError",
    "ServerTimeoutError", "FSTimeoutError", "TimeoutError", "gaierror", "ConnectionError",
    "TransportError", "ProxyConnectionError",
)  # fmt: skip
_DENIED = re.compile(
    r"\b(403|401)\b|Forbidden|Access ?Denied|InvalidAccessKeyId|SignatureDoesNotMatch|Unauthorized"
    r"|InvalidToken|ExpiredToken|not authorized|Anonymous caller",
    re.IGNORECASE,
)
_NO_BUCKET = re.compile(r"bucket does not exist|NoSuchBucket|bucket.{0,40}not.found", re.IGNORECASE)


@contextmanager
def told(doing: str) -> Iterator[None]:
    """What the block raises becomes a StorageError 'could not <doing>: why', with what to do.

    Its cause is what was raised. ImportError passes, as do errors of ours.
    """
    try:
        yield
    except (SommelierError, ImportError):
        raise
    except Exception as error:
        why, hint = _explained(error)
        raise StorageError(f"could not {doing}: {why}", hint=hint) from error


def is_missing(error: BaseException | None) -> bool:
    """Whether this says that an object is not there; False where its bucket is not either."""
    return isinstance(error, FileNotFoundError) and not _says(error, _NO_BUCKET)


def without_secrets(text: str) -> str:
    """Another library's message without the queries and users of addresses, and without whatever
    the environment holds that is called a secret.

    >>> without_secrets("403 for https://me:pw@host/a?X-Amz-Signature=1f (tried twice)")
    '403 for https://host/a (tried twice)'
    """
    for name, value in os.environ.items():
        if _SECRETS.search(name) and len(value) >= 6:
            text = text.replace(value, "***")
    text = re.sub(r"(?<=\S)\?[^\s'\"<>]+", "", text)
    return re.sub(r"//[^/\s@]*@", "//", text)


def _explained(error: Exception) -> tuple[str, str]:
    """(why, what to do)"""
    names = {type(found).__name__ for found in _chain(error)}
    if names & set(_NO_LOGIN):
        return "there are no credentials for it", (
            "log in as its own tools do (AWS_PROFILE or AWS_ACCESS_KEY_ID, gcloud auth), or set"
            " them in fsspec's configuration"
        )
    if _says(error, _NO_BUCKET):
        return "there is no such bucket", "make it, or correct the address"
    if isinstance(error, PermissionError) or _says(error, _DENIED):
        return (
            f"it is not allowed ({without_secrets(first_line(error))})",
            "the credentials must be allowed to read, and to import models to write, there",
        )
    if isinstance(error, FileNotFoundError):
        return "it is not there", "it was removed from the store, or the address is wrong"
    if names & set(_NO_ANSWER) or isinstance(error, ConnectionError | TimeoutError):
        return (
            f"there is no answer ({without_secrets(first_line(error))})",
            (
                "look at the network, and at the endpoint (AWS_ENDPOINT_URL or fsspec's settings);"
                " models that were used before are on this machine and go on working"
            ),
        )
    kind = "" if isinstance(error, OSError) else f"{type(error).__name__}: "
    return f"{kind}{without_secrets(first_line(error))}", "nothing half-written was left there"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and what it came from."""
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        yield found
        found = found.__cause__ or found.__context__


def _says(error: BaseException, pattern: re.Pattern[str]) -> bool:
    return any(pattern.search(f"{found}") for found in _chain(error))
