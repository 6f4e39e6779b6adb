"""What a hub is told and believed: an address in a statement may be anybody's, and lie."""

from __future__ import annotations

import gzip
import json
import time
import tracemalloc
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from sommelier.connectors.huggingface import HuggingFaceConnector
from sommelier.connectors.huggingface_transport import _led
from sommelier.errors import ConnectorError, RejectedModelError
from sommelier.records import Artifact, Rejection
from tests.connectors.hub_server import Repository, hub, safetensors
from tests.connectors.loopback import Page, Server, redirect, serving

pytest.importorskip("huggingface_hub")

CONFIG = b'{"architectures": ["BertModel"]}'
INDEX = "model.safetensors.index.json"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOMMELIER_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")


def fetched(endpoint: str, *locations: str, **options: object) -> list[Artifact | Rejection]:
    told = {"endpoint": endpoint, **options}
    return list(HuggingFaceConnector().fetch(locations, options=told))


def tokens(server: Server) -> set[str | None]:
    return {request.headers.get("authorization") for request in server.requests}


def index(*files: str) -> bytes:
    listed = {f"w{n}": file for n, file in enumerate(files)}
    return json.dumps({"metadata": {}, "weight_map": listed}).encode()


# ---- who is told who asks


def test_a_token_is_sent_to_the_users_own_hub_and_to_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files = {"config.json": CONFIG, "model.safetensors": safetensors({"w": ("F32", [3])})}
    with hub(Repository("o/n", files)) as server:
        fetched(server.url, "o/n")
        list(HuggingFaceConnector().search((), options={"endpoint": server.url}))
        assert len([r for r in server.requests if "/resolve/" in r.path]) > 0
        assert tokens(server) == {None}
        server.requests.clear()
        monkeypatch.setenv("HF_ENDPOINT", f"{server.url}/")
        fetched(server.url, "o/n")
        assert tokens(server) == {"Bearer hf_secret"}
        server.requests.clear()
        monkeypatch.setenv("HF_ENDPOINT", server.url.replace("127.0.0.1", "localhost"))
        fetched(server.url, "o/n")
        assert tokens(server) == {None}


def test_the_users_token_does_not_go_to_the_hub_over_http() -> None:
    from sommelier.connectors.huggingface_client import HUB, Hub

    assert Hub(HUB).headers()["authorization"] == "Bearer hf_secret"
    assert Hub(f"{HUB}:443/").headers()["authorization"] == "Bearer hf_secret"
    for other in ("http://huggingface.co", f"{HUB}.evil.example", "https://huggingface.co:444"):
        assert "authorization" not in Hub(other).headers()


def test_a_hub_that_gets_no_token_is_refused_with_how_it_would() -> None:
    with hub(Repository("o/n", refusal=Page(b"{}", 403))) as server:
        (found,) = fetched(server.url, "o/n")
        with pytest.raises(ConnectorError) as caught:
            fetched(server.url, "o/none")
    assert isinstance(found, Rejection)
    told = f"a token goes only to where HF_ENDPOINT leads: set it to {server.url}"
    assert told in found.reason
    assert told in str(caught.value.hint)


def test_a_password_in_the_address_goes_to_the_hub_and_is_told_to_nobody() -> None:
    repositories = [Repository(f"o/n{n}", {"a.onnx": b"junk"}) for n in range(4)]
    with hub(*repositories, Repository("o/row", {"config.json": CONFIG})) as server:
        endpoint = server.url.replace("//", "//me:verysecret@")
        found = fetched(endpoint, "o/n1", "o/row", f"{endpoint}/o/row")
        named = [c.name for c in HuggingFaceConnector().search((), options={"endpoint": endpoint})]
        with pytest.raises(ConnectorError) as missing:
            fetched(endpoint, "o/none")
        with pytest.raises(ConnectorError) as mistaken:
            fetched(endpoint, f"{endpoint}/datasets/o/n")
        server.routes["/api/models/o/n2"] = Page(b"{}", 403)
        found += fetched(endpoint, f"{endpoint}/o/n2")
    assert len(named) == 5  # of two pages, the second of which the hub names without a password
    assert tokens(server) == {"Basic bWU6dmVyeXNlY3JldA=="}
    assert isinstance(found[1], Artifact)
    assert found[1].declared["homepage"] == f"{server.url}/o/row"
    assert isinstance(found[-1], Rejection)
    said = [repr(found), str(missing.value), str(mistaken.value), str(mistaken.value.hint)]
    assert not [text for text in said if "verysecret" in text]


def test_a_redirect_of_the_api_is_followed_without_the_token(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with hub(Repository("o/new", {"config.json": CONFIG})) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        elsewhere = server.url.replace("127.0.0.1", "localhost")
        server.routes |= {
            "/api/models/o/old": redirect("/api/models/o/new", 307),
            "/api/models/o/far": redirect(f"{elsewhere}/api/models/o/new"),
            "/api/models/o/loop": redirect("/api/models/o/loop"),
            "/api/models/o/file": redirect("file:///etc/passwd"),
        }
        found = fetched(server.url, "o/old", "o/far", "o/loop", "o/file")
        asked = [r.headers.get("authorization") for r in server.requests]
    assert [type(item) for item in found] == [Artifact, Artifact, Rejection, Rejection]
    assert asked[:4] == ["Bearer hf_secret"] * 3 + [None]
    assert "redirected more than 5 times" in str(found[2])
    assert "no http or https address" in str(found[3])


@pytest.mark.parametrize("near", ["127.0.0.1", "169.254.169.254"])
def test_a_hub_of_the_internet_leads_to_nothing_of_our_own_network(near: str) -> None:
    far = "http://1.1.1.1/api/models/o/n"
    with pytest.raises(ConnectorError, match="leads into a private network"):
        _led(far, f"http://{near}/latest/meta-data", far)
    assert _led(f"http://{near}/a", "http://127.0.0.1/b", far) == "http://127.0.0.1/b"


# ---- what a hub may send


class Claiming(Repository):
    """A repository that says it is at a commit which another one is at too."""

    @property
    def sha(self) -> str:
        return "a" * 40


def test_what_one_hub_sent_is_not_taken_for_the_same_name_of_another() -> None:
    single = {"config.json": CONFIG, "model.safetensors": b"EVIL"}
    part = "model-00001-of-00001.safetensors"
    sharded = {"config.json": CONFIG, INDEX: index(part), part: b"good"}
    with hub(Claiming("o/n", single)) as other:
        (first,) = fetched(other.url, "o/n", export=True)
    with hub(Claiming("o/n", sharded)) as server:
        (second,) = fetched(server.url, "o/n", export=True)
        server.routes |= {"/api/models/o/n": Page.of_json(Claiming("o/n", single).information())}
        server.routes["/o/n/resolve/" + "a" * 40 + "/model.safetensors"] = Page(b"EVIL")
        (third,) = fetched(server.url, "o/n", export=True)
    folders = []
    for found, names in ((first, single), (second, sharded), (third, single)):
        assert isinstance(found, Artifact)
        assert found.path is not None
        assert {file.name for file in found.path.parent.iterdir()} == set(names)
        folders.append(found.path.parent)
    assert len(set(folders)) == 3


@pytest.mark.parametrize("name", ["..", ".", "../x", "o/..", "./x", "..@main", "..:a.onnx"])
def test_no_repository_is_called_like_a_folder_that_leads_elsewhere(
    name: str, tmp_path: Path
) -> None:
    with pytest.raises(ConnectorError, match="is no repository"):
        fetched("http://127.0.0.1:1", name)
    with pytest.raises(ConnectorError, match="is no repository"):
        fetched("http://127.0.0.1:1", f"http://127.0.0.1:1/{name}")
    claimed = {**Repository("o/n", {"a.onnx": b"x"}).information(), "id": name}
    with hub(Repository("o/n", refusal=Page.of_json(claimed))) as server:
        (found,) = fetched(server.url, "o/n")
    assert isinstance(found, Rejection)
    assert not (tmp_path / "cache" / "huggingface").exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.SAFETENSORS", "x.safetensors.bin"])
def test_a_pickle_that_the_index_names_is_not_fetched(name: str, tmp_path: Path) -> None:
    files = {"config.json": CONFIG, INDEX: index("a.safetensors", name), name: b"PICKLE"}
    with hub(Repository("o/p", {**files, "a.safetensors": b"x"})) as server:
        (found,) = fetched(server.url, "o/p", export=True)
        asked = [r.path for r in server.requests]
    assert isinstance(found, Rejection)
    assert f"names '{name}', which is no .safetensors file" in found.reason
    assert not [path for path in asked if path.endswith(name)]
    assert not [file for file in tmp_path.rglob("*") if file.name == name]


@pytest.mark.parametrize(
    ("body", "headers", "says"),
    [
        (gzip.compress(b'{"id": "' + b"a" * 60_000_000, 1), {"Content-Encoding": "gzip"},
         "in the encoding 'gzip', which was not asked for"),
        (b'{"id": "o/n", "pad": "' + b"a" * 20_000_000 + b'"}', {}, "answers with more than"),
        (b'{"error": "' + b"a" * 20_000_000 + b'"}', {"X-Status": "404"}, "answers with more than"),
    ],
    ids=["packed", "long", "long error"],
)  # fmt: skip
@pytest.mark.parametrize("where", ["o/n", "a redirect"])
def test_an_answer_of_the_api_takes_a_bounded_share_of_memory(
    body: bytes, headers: dict[str, str], says: str, where: str
) -> None:
    status = int(headers.get("X-Status", "302" if where == "a redirect" else "200"))
    large = Page(body, status, {**headers, "Location": "/api/models/o/other"})
    with serving({"/api/models/o/n": large}) as server:
        tracemalloc.start()
        try:
            found: object = fetched(server.url, "o/n")
        except ConnectorError as error:
            found = error
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        asked = server.requests[0].headers["accept-encoding"]
    assert peak < 50_000_000
    assert asked == "identity"
    if status != 302:  # what comes with a redirect is not read at all
        assert says in str(found)


def test_an_answer_that_does_not_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    from sommelier.connectors import huggingface_transport as transport

    clock = iter(range(0, 10_000, 50))
    with serving({"/slow": Page(b"x" * 100_000)}) as server:
        monkeypatch.setattr(time, "monotonic", lambda: next(clock))
        with pytest.raises(ConnectorError, match="takes too long"):
            transport.answered(f"{server.url}/slow", None, lambda _: {}, seconds=60)


def test_a_busy_hub_may_say_when_by_a_date(monkeypatch: pytest.MonkeyPatch) -> None:
    naps: list[float] = []
    monkeypatch.setattr("time.sleep", naps.append)
    then = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    good = Repository("o/n", {"config.json": CONFIG})
    with hub(good) as server:
        page = Page.of_json(good.information())
        server.routes["/api/models/o/n"] = Page(
            b"{}", 429, {"Retry-After": then}, times=1, then=page
        )
        fetched(server.url, "o/n")
    assert [90 < nap <= 100 for nap in naps if nap >= 1] == [True]


# ---- what the library of the weights may read


def test_the_hub_is_not_offline_after_a_module_was_made_again(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    from huggingface_hub import constants

    from sommelier.analysis.conversion.transformers_models import load_transformers
    from sommelier.analysis.conversion.values import ConversionRequest

    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        image_size=16, patch_size=4, num_labels=4,
    )  # fmt: skip
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path)
    seen = []
    made = transformers.ViTForImageClassification.from_pretrained

    def watched(*args: object, **options: object) -> object:
        seen.append(constants.is_offline_mode())
        return made(*args, **options)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(transformers.ViTForImageClassification, "from_pretrained", watched)
        load_transformers(ConversionRequest(tmp_path / "config.json", tmp_path, {}))
    assert seen == [True]
    assert not constants.is_offline_mode()


def test_the_first_import_of_the_library_does_not_take_the_process_offline(tmp_path: Path) -> None:
    import subprocess
    import sys

    pytest.importorskip("transformers")
    (tmp_path / "config.json").write_text('{"architectures": ["NoSuch"]}')
    script = (
        "from pathlib import Path\n"
        "from sommelier.analysis.conversion.table import original\n"
        "from sommelier.analysis.conversion.values import ConversionRequest\n"
        f"folder = Path({str(tmp_path)!r})\n"
        "try: original('transformers', ConversionRequest(folder / 'config.json', folder, {}))\n"
        "except Exception as error: print(error)\n"
        "from huggingface_hub import constants\n"
        "print(constants.is_offline_mode())\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "False", done.stderr
    assert "no architecture 'NoSuch'" in done.stdout


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (index("pytorch_model.bin"), "names 'pytorch_model.bin', which is no .safetensors file"),
        (b"[]", "cannot be read"),
        (b"[" * 100_000, "cannot be read"),
    ],
)
def test_the_library_is_not_given_a_list_of_pickles(
    content: bytes, says: str, tmp_path: Path
) -> None:
    pytest.importorskip("transformers")
    from sommelier.analysis.conversion.transformers_models import load_transformers
    from sommelier.analysis.conversion.values import ConversionRequest

    (tmp_path / "config.json").write_bytes(CONFIG)
    (tmp_path / INDEX).write_bytes(content)
    (tmp_path / "pytorch_model.bin").write_bytes(b"PICKLE")
    with pytest.raises(RejectedModelError, match=says):
        load_transformers(ConversionRequest(tmp_path / "config.json", tmp_path, {}))
