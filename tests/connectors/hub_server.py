"""A Hugging Face Hub on loopback, as its real client speaks to it: search, information, files."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.connectors.loopback import Page, Request, Route, Server, serving

PAGE_SIZE = 3


@dataclass
class Repository:
    """A repository with one commit. large : files kept apart (LFS), whose SHA-256 is told.
    total : parameters where that is not the sum by dtype."""

    id: str
    files: Mapping[str, bytes] = field(default_factory=dict)
    task: str | None = None
    card: Mapping[str, object] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    config: Mapping[str, object] = field(default_factory=dict)
    parameters: Mapping[str, int] | None = None
    downloads: int = 0
    large: tuple[str, ...] = (".onnx", ".onnx_data", ".safetensors", ".bin")
    claims: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    refusal: Page | None = None
    library: str | None = None
    total: int | None = None
    created: str = "2025-03-04T05:06:07.000Z"

    @property
    def sha(self) -> str:
        return hashlib.sha1(repr((self.id, sorted(self.files.items()))).encode()).hexdigest()

    def information(self) -> dict[str, object]:
        """What /api/models/<id>?blobs=true answers."""
        info: dict[str, object] = {
            "id": self.id,
            "sha": self.sha,
            "author": self.id.partition("/")[0],
            "createdAt": self.created,
            "downloads": self.downloads,
            "likes": self.downloads // 10,
            "tags": list(self.tags),
            "cardData": dict(self.card),
            "config": dict(self.config),
            "siblings": [self._sibling(path, body) for path, body in sorted(self.files.items())],
        }
        if self.task is not None:
            info["pipeline_tag"] = self.task
        if self.library is not None:
            info["library_name"] = self.library
        if self.parameters is not None:
            info["safetensors"] = {"parameters": dict(self.parameters), "total": self.counted}
        return info

    @property
    def counted(self) -> int:
        return sum((self.parameters or {}).values()) if self.total is None else self.total

    def _sibling(self, path: str, body: bytes) -> dict[str, object]:
        blob = hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()
        entry: dict[str, object] = {"rfilename": path, "size": len(body), "blobId": blob}
        if path.endswith(self.large):
            digest = hashlib.sha256(body).hexdigest()
            entry["lfs"] = {"size": len(body), "sha256": digest, "pointerSize": 130}
        return {**entry, **self.claims.get(path, {})}


@contextmanager
def hub(*repositories: Repository) -> Iterator[Server]:
    """A hub with these repositories until the block ends; routes may be replaced for faults."""
    known = {repository.id: repository for repository in repositories}
    with serving({}) as server:

        def search(request: Request) -> Page:
            return _search(request, list(known.values()), server.url)

        server.routes["/api/models"] = search
        for repository in repositories:
            server.routes |= _routes(repository)
        server.routes["/api/models/"] = Page(
            b'{"error":"Repository not found"}', 404, {"X-Error-Code": "RepoNotFound"}
        )
        yield server


def safetensors(tensors: Mapping[str, tuple[str, list[int]]]) -> bytes:
    """A file of the format with zeros for data: {tensor: (dtype, shape)}."""
    sizes = {"F32": 4, "F16": 2, "BF16": 2, "I8": 1, "I64": 8}
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (dtype, shape) in tensors.items():
        start, count = end, 1
        for side in shape:
            count *= side
        end += count * sizes[dtype]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(max(0, end))


def _routes(repository: Repository) -> dict[str, Route]:
    info = repository.refusal or Page.of_json(repository.information())
    api = f"/api/models/{repository.id}"
    routes: dict[str, Route] = {api: info, f"{api}/revision/main": info}
    routes[f"{api}/revision/{repository.sha}"] = info
    routes[f"{api}/revision/"] = Page(
        b'{"error":"Invalid rev id"}', 404, {"X-Error-Code": "RevisionNotFound"}
    )
    for path, body in repository.files.items():
        etag = f'"{hashlib.sha256(body).hexdigest()}"'
        headers = {"X-Repo-Commit": repository.sha}
        routes[f"/{repository.id}/resolve/{repository.sha}/{path}"] = Page(
            body, etag=etag, headers=headers
        )
    return routes


def _search(request: Request, repositories: list[Repository], url: str) -> Page:
    """The hub's filters, its order, and pages that name the next one in a Link header."""
    query = request.query
    found = [r for r in repositories if _passes(r, query)]
    if query.get("sort") == ["downloads"]:
        found.sort(key=lambda r: -r.downloads)
    start = int(query.get("cursor", ["0"])[0])
    headers = {"Content-Type": "application/json"}
    if start + PAGE_SIZE < len(found):
        pairs = [f"{n}={v}" for n, vs in query.items() if n != "cursor" for v in vs]
        following = "&".join([*pairs, f"cursor={start + PAGE_SIZE}"])
        headers["Link"] = f'<{url}/api/models?{following}>; rel="next"'
    wanted = {"id", *query.get("expand", [])}
    shown = [
        {key: value for key, value in r.information().items() if key in wanted}
        for r in found[start : start + PAGE_SIZE]
    ]
    return Page(json.dumps(shown).encode(), headers=headers)


def _passes(repository: Repository, query: Mapping[str, list[str]]) -> bool:
    if "pipeline_tag" in query and query["pipeline_tag"] != [repository.task]:
        return False
    if "author" in query and query["author"] != [repository.id.partition("/")[0]]:
        return False
    if query.get("search", [""])[0].lower() not in repository.id.lower():
        return False
    told = {*repository.tags, repository.task, repository.library}
    if not set(query.get("filter", [])) <= told:
        return False
    if "num_parameters" in query:
        if repository.parameters is None:
            return False
        total = repository.counted
        bounds = dict(part.split(":") for part in query["num_parameters"][0].split(","))
        low, high = _count(bounds.get("min", "0")), _count(bounds.get("max", "9999B"))
        return low <= total <= high
    return True


def _count(text: str) -> float:
    scale = {"K": 1e3, "M": 1e6, "B": 1e9}.get(text[-1])
    return float(text) if scale is None else float(text[:-1]) * scale
