"""An OCI registry on loopback, as its real client speaks to it: push, pull, lists, tokens, faults.

with registry() as server:
    push(server, "models/digits:v1", {"model.onnx": b"..."})
    server.routes["/v2/models/digits/manifests/v1"] = Page(b"no JSON")

Endpoints and answers are those of the OCI distribution specification 1.1.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.connectors.loopback import Page, Request, Server, _Handler, running

OCI = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
IMAGE = "application/vnd.oci.image.config.v1+json"
MODEL = "application/vnd.cncf.model.manifest.v1+json"
CONFIG = "application/vnd.cncf.model.config.v1+json"
WEIGHT = "application/vnd.cncf.model.weight.v1."
DOC = "application/vnd.cncf.model.doc.v1.raw"
FILEPATH, TITLE = "org.cncf.model.filepath", "org.opencontainers.image.title"
USER, PASSWORD = "reader", "s3cret-of-mine"

_UPLOAD = re.compile(r"/v2/(.+)/blobs/uploads/([^/]*)")
_BLOB = re.compile(r"/v2/(.+)/blobs/(sha256:[0-9a-f]{64})")
_MANIFEST = re.compile(r"/v2/(.+)/manifests/(.+)")
_TAGS = re.compile(r"/v2/(.+)/tags/list")


@dataclass
class Registry(Server):
    """A running registry. auth : None, 'token' or 'basic'; public : whether a token is for anyone;
    catalog : False where the registry has none; page : the most names of one answer."""

    auth: str | None = None
    public: bool = False
    catalog: bool = True
    page: int = 1000
    realm: str | None = None
    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, dict[str, tuple[str, bytes]]] = field(default_factory=dict)
    tagged: dict[str, dict[str, str]] = field(default_factory=dict)
    uploads: dict[str, bytes] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)

    @property
    def host(self) -> str:
        return self.url.removeprefix("http://")

    def page_of(self, request: Request) -> Page:
        """What the specification says, unless a route of the test says otherwise."""
        if request.path in self.routes:
            return super().page(request)
        self.requests.append(request)
        if request.path == "/token":
            return self._token(request)
        refused = self._refusal(request)
        return refused or self._answer(request)

    def _answer(self, request: Request) -> Page:
        path, method = request.path, request.method
        if path == "/v2/":
            return Page.of_json({})
        if path == "/v2/_catalog":
            return self._names(request, "repositories", sorted(self.tagged))
        if match := _TAGS.fullmatch(path):
            if match[1] not in self.tagged:
                return _error(404, "NAME_UNKNOWN", "repository name not known to registry")
            return self._names(request, "tags", sorted(self.tagged[match[1]]))
        if match := _UPLOAD.fullmatch(path):
            return self._upload(request, match[1], match[2])
        if match := _BLOB.fullmatch(path):
            body = self.blobs.get(match[2])
            headers = {"Docker-Content-Digest": match[2]}
            if body is None:
                return _error(404, "BLOB_UNKNOWN", "blob unknown to registry")
            return Page(body, headers=headers, etag=f'"{match[2]}"')
        if match := _MANIFEST.fullmatch(path):
            if method == "PUT":
                return self._put(match[1], match[2], request)
            return self._manifest(match[1], match[2])
        return _error(404, "UNSUPPORTED", "no such endpoint")

    def _names(self, request: Request, key: str, names: Sequence[str]) -> Page:
        if key == "repositories" and not self.catalog:
            return _error(404, "UNSUPPORTED", "no catalog")
        last = request.query.get("last", [""])[0]
        rest = [name for name in names if name > last]
        count = min(int(request.query.get("n", ["1000"])[0]), self.page)
        answer = Page.of_json({key: rest[:count]})
        if len(rest) > count:
            link = f'<{request.path}?n={count}&last={rest[count - 1]}>; rel="next"'
            answer = Page(answer.body, headers={**answer.headers, "Link": link})
        return answer

    def _upload(self, request: Request, path: str, session: str) -> Page:
        if request.method == "POST":
            session = uuid.uuid4().hex
            self.uploads[session] = b""
        self.uploads[session] += request.body
        if request.method != "PUT":
            headers = {"Location": f"/v2/{path}/blobs/uploads/{session}"}
            return Page(status=202, headers=headers)
        body, (digest,) = self.uploads.pop(session), request.query["digest"]
        if _digest(body) != digest:
            return _error(400, "DIGEST_INVALID", "the digest is not that of the content")
        self.blobs[digest] = body
        return Page(status=201, headers={"Location": f"/v2/{path}/blobs/{digest}"})

    def _put(self, path: str, reference: str, request: Request) -> Page:
        digest = self.keep(path, reference, request.body, request.headers["content-type"])
        headers = {
            "Location": f"/v2/{path}/manifests/{digest}", "Docker-Content-Digest": digest
        }  # fmt: skip
        return Page(status=201, headers=headers)

    def keep(self, path: str, reference: str, body: bytes, media: str = OCI) -> str:
        """Keeps a manifest, as it is; its digest."""
        digest = _digest(body)
        self.manifests.setdefault(path, {})[digest] = (media, body)
        tags = self.tagged.setdefault(path, {})
        if not reference.startswith("sha256:"):
            tags[reference] = digest
        return digest

    def _manifest(self, path: str, reference: str) -> Page:
        digest = self.tagged.get(path, {}).get(reference, reference)
        media, body = self.manifests.get(path, {}).get(digest, ("", b""))
        if not media:
            return _error(404, "MANIFEST_UNKNOWN", "manifest unknown")
        return Page(body, headers={"Content-Type": media, "Docker-Content-Digest": digest})

    # ---- who asks

    def _refusal(self, request: Request) -> Page | None:
        given = request.headers.get("authorization", "")
        match = re.match(r"/v2/(.+)/(?:blobs|manifests|tags)/", request.path)
        scope = f"repository:{match[1]}:pull" if match else "registry:catalog:*"
        if self.auth == "basic" and given != _basic(USER, PASSWORD):
            return _unauthorized('Basic realm="loopback"')
        if self.auth == "token" and self.tokens.get(given.removeprefix("Bearer ")) != scope:
            realm = self.realm or f"{self.url}/token"
            wanted = f',scope="{scope}"' if match or "_catalog" in request.path else ""
            return _unauthorized(f'Bearer realm="{realm}",service="loopback"{wanted}')
        return None

    def _token(self, request: Request) -> Page:
        if not self.public and request.headers.get("authorization") != _basic(USER, PASSWORD):
            return _error(401, "UNAUTHORIZED", "who are you?")
        token = uuid.uuid4().hex
        self.tokens[token] = request.query.get("scope", [""])[0]
        return Page.of_json({"token": token, "expires_in": 60})


@contextmanager
def registry(**settings: object) -> Iterator[Registry]:
    """A registry on a free port of 127.0.0.1 until the block ends."""
    server = Registry("", {}, **settings)  # type: ignore[arg-type]

    class Site(Server):
        def page(self, request: Request) -> Page:
            return server.page_of(request)

    class Handler(_Handler):
        site = Site("", {})
        disable_nagle_algorithm = True  # or each answer on a kept connection waits 40 ms

        def do_PUT(self) -> None:  # noqa: N802
            self.do_POST()

        def do_PATCH(self) -> None:  # noqa: N802
            self.do_POST()

    with running(Handler) as server.url:
        yield server


def push(server: Registry, target: str, files: Mapping[str, bytes], media: str = "") -> str:
    """Pushes files as oras does, each under its name, with the media type behind it if one is
    said; the digest of the manifest."""
    import oras.client

    client = oras.client.OrasClient(insecure=True)
    with tempfile.TemporaryDirectory() as folder, _open(server):
        given = []
        for name, body in files.items():
            path = Path(folder, name)
            path.write_bytes(body)
            given.append(f"{path}:{media}" if media else str(path))
        answer = client.push(
            f"{server.host}/{target}", files=given, disable_path_validation=True, quiet=True
        )
    return str(answer.headers["Docker-Content-Digest"])


def push_model(
    server: Registry,
    target: str,
    layers: Sequence[tuple[str, str | None, bytes]],
    config: object = None,
    **manifest: object,
) -> str:
    """Pushes a ModelPack artifact through oras: layers are (media type, file path, content), of
    which types may be the end of WEIGHT alone. manifest : what it says instead."""
    import oras.client
    import oras.provider

    client = oras.client.OrasClient(insecure=True)
    container = client.get_container(f"{server.host}/{target}")
    body = config if isinstance(config, bytes) else json.dumps(config or {}).encode()
    with tempfile.TemporaryDirectory() as folder, _open(server):

        def uploaded(media: str, content: bytes) -> dict[str, object]:
            path = Path(folder, uuid.uuid4().hex)
            path.write_bytes(content)
            blob = {"mediaType": media, "digest": _digest(content), "size": len(content)}
            answer = client.upload_blob(str(path), container, blob)
            assert answer.status_code in (200, 201), answer.text
            return blob

        described = []
        for media, name, content in layers:
            blob = uploaded(media if "/" in media else WEIGHT + media, content)
            described.append(blob if name is None else {**blob, "annotations": {FILEPATH: name}})
        whole = {
            "schemaVersion": 2, "mediaType": OCI, "artifactType": MODEL,
            "config": uploaded(CONFIG, body), "layers": described, **manifest,
        }  # fmt: skip
        answer = client.upload_manifest(whole, container)
    assert answer.status_code == 201, answer.text
    return str(answer.headers["Docker-Content-Digest"])


def described(**facts: object) -> dict[str, object]:
    """A config of ModelPack with these facts, each where it belongs."""
    technical = ("architecture", "format", "paramSize", "precision", "quantization")
    config = {key: facts.pop(key) for key in technical if key in facts}
    files = {"type": "layers", "diffIds": []}
    return {"descriptor": facts, "config": config, "modelfs": files}


def docker_config(folder: Path, logins: Mapping[str, tuple[str, str]]) -> None:
    """Writes a configuration of docker below a home."""
    (folder / ".docker").mkdir(parents=True, exist_ok=True)
    auths = {
        host: {"auth": _basic(*login).removeprefix("Basic ")} for host, login in logins.items()
    }
    (folder / ".docker" / "config.json").write_text(json.dumps({"auths": auths}))


@contextmanager
def _open(server: Registry) -> Iterator[None]:
    """The registry without its doors while a test pushes, and without a trace of it."""
    auth, server.auth = server.auth, None
    try:
        yield
    finally:
        server.auth = auth
        server.requests.clear()


def _error(status: int, code: str, message: str) -> Page:
    errors = {"errors": [{"code": code, "message": message}]}
    return Page(json.dumps(errors).encode(), status, {"Content-Type": "application/json"})


def _unauthorized(challenge: str) -> Page:
    page = _error(401, "UNAUTHORIZED", "authentication required")
    return Page(page.body, 401, {**page.headers, "WWW-Authenticate": challenge})


def _basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def _digest(body: bytes) -> str:
    return f"sha256:{hashlib.sha256(body).hexdigest()}"
