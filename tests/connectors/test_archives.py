"""Archives as attackers write them: nothing leaves the folder, and nothing of a bad one is kept."""

from __future__ import annotations

import gzip
import io
import resource
import stat
import tarfile
import threading
import tracemalloc
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sommelier.connectors.archives import MAX_MEMBERS, ArchiveLimits, unpacked
from sommelier.connectors.formats import format_of
from sommelier.errors import ConnectorError, RejectedModelError
from sommelier.storage.zips import LIST_BYTES

FILES = {"model.pb": b"graph", "variables/data": b"\0" * 3000, "assets/a.txt": b"a"}
LINKS = [tarfile.SYMTYPE, tarfile.LNKTYPE]
Writer = Callable[[Path, dict[str, bytes]], Path]


def write_zip(folder: Path, members: dict[str, bytes]) -> Path:
    path = folder / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def write_tar(folder: Path, members: dict[str, bytes], mode: str = "w:gz") -> Path:
    return write_entries(folder, [(entry(n, len(c)), c) for n, c in members.items()], mode)


def write_entries(
    folder: Path, entries: list[tuple[tarfile.TarInfo, bytes]], mode: str = "w:gz"
) -> Path:
    path = folder / "a.tar"
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]  # the mode is a str
        for info, content in entries:
            archive.addfile(info, io.BytesIO(content))
    return path


def entry(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, to: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname, info.mode = size, kind, to, 0o4777
    return info


def zip_with_link(folder: Path) -> Path:
    info = zipfile.ZipInfo("link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    path = folder / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(info, "/etc/passwd")
        archive.writestr("model.pb", b"x")
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


def refused(archive: Path, into: Path, limits: ArchiveLimits | None = None) -> str:
    with pytest.raises(RejectedModelError) as caught:
        unpacked(archive, into, limits=limits or ArchiveLimits())
    assert not into.exists()
    assert [p.name for p in into.parent.iterdir()] == [archive.name]
    return caught.value.message


both = pytest.mark.parametrize("write", [write_zip, write_tar])


@both
def test_files_arrive_as_they_were_packed(write: Writer, tmp_path: Path) -> None:
    into = tmp_path / "out"
    assert unpacked(write(tmp_path, FILES), into) == into
    assert contents(into) == FILES
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted({"out", *_archives(tmp_path)})


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_every_compression_of_tar_is_read(mode: str, tmp_path: Path) -> None:
    entries = [(entry("variables", kind=tarfile.DIRTYPE), b"")]
    entries += [(entry(name, len(content)), content) for name, content in FILES.items()]
    assert contents(unpacked(write_entries(tmp_path, entries, mode), tmp_path / "out")) == FILES


def test_modes_of_a_tar_are_not_taken_over(tmp_path: Path) -> None:
    path = unpacked(write_tar(tmp_path, FILES), tmp_path / "out") / "model.pb"
    assert not path.stat().st_mode & (stat.S_ISUID | stat.S_IXUSR)


@both
@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/evil", "C:evil", "a\\..\\evil"])
def test_no_member_leaves_the_folder(write: Writer, name: str, tmp_path: Path) -> None:
    assert "outside of itself" in refused(write(tmp_path, {name: b"x"}), tmp_path / "out")


@pytest.mark.parametrize("kind", LINKS)
def test_links_in_a_tar_are_refused_wherever_they_lead(kind: bytes, tmp_path: Path) -> None:
    entries = [(entry("model.pb", 1), b"x"), (entry("link", kind=kind, to="model.pb"), b"")]
    assert "'link' is a link" in refused(write_entries(tmp_path, entries), tmp_path / "out")


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_devices_and_pipes_are_refused(kind: bytes, tmp_path: Path) -> None:
    archive = write_entries(tmp_path, [(entry("dev", kind=kind), b"")])
    assert "no plain file" in refused(archive, tmp_path / "out")


def test_a_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    assert "'link' is a link" in refused(zip_with_link(tmp_path), tmp_path / "out")


@both
def test_the_limit_holds_for_all_files_together(write: Writer, tmp_path: Path) -> None:
    archive = write(tmp_path, {"a": b"x" * 600, "b": b"y" * 600})
    limits = ArchiveLimits(bytes=1000)
    assert "more than 1 kB" in refused(archive, tmp_path / "out", limits)


@both
def test_too_many_entries_are_refused(write: Writer, tmp_path: Path) -> None:
    archive = write(tmp_path, {str(n): b"" for n in range(11)})
    limits = ArchiveLimits(entries=10)
    assert "more than 10 entries" in refused(archive, tmp_path / "out", limits)


def test_a_zip_bomb_is_refused_by_its_ratio_before_it_is_unpacked(tmp_path: Path) -> None:
    archive = write_zip(tmp_path, {"zeros": b"\0" * 70_000_000})
    assert "times its size" in refused(archive, tmp_path / "out")


def test_a_tar_whose_header_alone_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    huge = entry("x", 1 << 40, tarfile.XHDTYPE)
    path = tmp_path / "a.tar"
    path.write_bytes(huge.tobuf(tarfile.GNU_FORMAT) + b"\0" * 2_000_000)
    assert "headers that are too large" in refused(path, tmp_path / "out")


def header(kind: bytes, records: bytes) -> bytes:
    """A header of a tar that describes what follows, with its records."""
    info = entry("x", len(records), kind)
    return info.tobuf(tarfile.USTAR_FORMAT) + records + b"\0" * (-len(records) % 512)


def record(name: bytes, value: bytes) -> bytes:
    """A record of pax: its own length, counted with its digits, and what it says."""
    rest = len(name) + len(value) + 3
    length = next(n for digits in range(1, 10) if len(str(n := rest + digits)) == digits)
    return b"%d %s=%s\n" % (length, name, value)


SPARSE = record(b"GNU.sparse.major", b"1") + record(b"GNU.sparse.minor", b"0")
MAP = (
    header(tarfile.XHDTYPE, SPARSE) + entry("map", 1 << 30).tobuf() + b"9999999\n" + b"0\n" * 10**6
)


@pytest.mark.parametrize(
    "content",
    [
        b"".join(header(tarfile.XGLTYPE, record(b"k%d" % n, b"v" * 9000)) for n in range(150)),
        b"".join(header(tarfile.XHDTYPE, record(b"k", b"v" * 9000)) for n in range(150)),
        MAP,
    ],
    ids=["of all members", "of one member", "of a sparse file"],
)
def test_what_describes_one_member_of_a_tar_is_limited_however_it_is_told(
    content: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "a.tar.gz"
    path.write_bytes(gzip.compress(content + entry("model.pb").tobuf() + b"\0" * 1024))
    assert "headers that are too large" in refused(path, tmp_path / "out")


def test_what_describes_all_members_of_a_tar_together_is_limited(tmp_path: Path) -> None:
    each = 900_000
    path = tmp_path / "a.tar.gz"
    with gzip.open(path, "wb", compresslevel=1) as stream:
        for number in range(MAX_MEMBERS * 3072 // each + 1):
            stream.write(header(tarfile.XHDTYPE, record(b"comment", b"v" * each)))
            stream.write(entry(f"f{number}").tobuf())
        stream.write(b"\0" * 1024)
    assert path.stat().st_size < 2_000_000
    tracemalloc.start()
    assert "headers that are too large" in refused(path, tmp_path / "out")
    assert tracemalloc.get_traced_memory()[1] < 20 * each
    tracemalloc.stop()


def test_a_tar_whose_header_tells_of_all_members_is_unpacked_as_git_writes_it(
    tmp_path: Path,
) -> None:
    commit = header(tarfile.XGLTYPE, record(b"comment", b"0123abc" * 5))
    path = tmp_path / "a.tar"
    path.write_bytes(
        commit + entry("model.pb", 5).tobuf() + b"graph".ljust(512, b"\0") + b"\0" * 1024
    )
    assert contents(unpacked(path, tmp_path / "out")) == {"model.pb": b"graph"}


@both
def test_a_truncated_archive_is_refused(write: Writer, tmp_path: Path) -> None:
    archive = write(tmp_path, FILES)
    archive.write_bytes(archive.read_bytes()[:-60])
    assert "is damaged" in refused(archive, tmp_path / "out")


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(b"<html>not found</html>")
    assert "is damaged" in refused(path, tmp_path / "out")


def test_a_member_twice_is_refused(tmp_path: Path) -> None:
    twice = [(entry("a", 1), b"x"), (entry("./a", 1), b"y")]
    assert "'a' twice" in refused(write_entries(tmp_path, twice), tmp_path / "out")


def test_a_folder_that_is_there_is_taken_as_it_is(tmp_path: Path) -> None:
    kept = tmp_path / "out" / "mine"
    kept.parent.mkdir()
    kept.write_text("kept")
    assert unpacked(write_zip(tmp_path, FILES), tmp_path / "out") == tmp_path / "out"
    assert contents(tmp_path / "out") == {"mine": b"kept"}


@both
def test_of_many_that_unpack_the_same_all_get_it(write: Writer, tmp_path: Path) -> None:
    archive = write(tmp_path, {str(n): b"x" * 1000 for n in range(200)})
    into = tmp_path / "out"
    start = threading.Barrier(4)

    def unpack() -> Path:
        start.wait()
        return unpacked(archive, into)

    with ThreadPoolExecutor(4) as pool:
        found = [task.result() for task in [pool.submit(unpack) for _ in range(4)]]
    assert found == [into] * 4
    assert len(contents(into)) == 200
    assert not list(tmp_path.glob(".part-*"))


@both
def test_a_disk_that_does_not_take_it_is_no_fault_of_the_archive(
    write: Writer, tmp_path: Path
) -> None:
    archive = write(tmp_path, {"model.pb": b"x" * 300_000})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(ConnectorError) as caught:
            unpacked(archive, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not isinstance(caught.value, RejectedModelError)
    assert str(tmp_path) in caught.value.message
    assert [path.name for path in tmp_path.iterdir()] == [archive.name]


def test_a_file_in_the_place_of_the_cache_is_no_fault_of_the_archive(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(ConnectorError) as caught:
        unpacked(write_zip(tmp_path, FILES), tmp_path / "cache" / "out")
    assert not isinstance(caught.value, RejectedModelError)


def test_links_are_left_out_where_that_is_asked_for(tmp_path: Path) -> None:
    links = [(entry("link", kind=kind, to="/etc/passwd"), b"") for kind in LINKS]
    tar = write_entries(tmp_path, [*links, (entry("model.pb", 1), b"x")])
    for archive in (tar, zip_with_link(tmp_path)):
        into = tmp_path / f"out of {archive.name}"
        assert contents(unpacked(archive, into, skip_links=True)) == {"model.pb": b"x"}
        assert [path.name for path in into.iterdir()] == ["model.pb"]


def _archives(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("a.*")}


def test_a_zip_whose_list_of_members_is_long_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "many.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(80_000):
            archive.writestr(f"{i:060}", b"")
    tracemalloc.start()
    with pytest.raises(RejectedModelError, match="lists its members in"):
        unpacked(path, tmp_path / "out")
    with pytest.raises(RejectedModelError, match="lists its members in"):
        format_of(path.rename(tmp_path / "many.pt"))
    assert tracemalloc.get_traced_memory()[1] < 10**7  # the list alone would take 40 MB
    tracemalloc.stop()


def test_a_large_member_of_a_short_list_is_read(tmp_path: Path) -> None:
    path = tmp_path / "large.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("weights", bytes(LIST_BYTES + 1))
    assert (unpacked(path, tmp_path / "out") / "weights").stat().st_size == LIST_BYTES + 1


@pytest.mark.parametrize("write", [write_zip, write_tar])
def test_folders_count_that_the_archive_does_not_list(write: Writer, tmp_path: Path) -> None:
    deep = {f"{i}/{'d/' * 20}f": b"x" for i in range(5)}
    limits = ArchiveLimits(entries=50)
    assert "more than 50 entries" in refused(write(tmp_path, deep), tmp_path / "out", limits)
    shared = {f"{'d/' * 20}{i}": b"x" for i in range(5)}  # 20 folders and 5 files
    archive = write(tmp_path, shared)
    assert "more than 24 entries" in refused(archive, tmp_path / "out", ArchiveLimits(entries=24))
    assert len(contents(unpacked(archive, tmp_path / "out", limits=ArchiveLimits(entries=25)))) == 5


@pytest.mark.parametrize("write", [write_zip, write_tar])
def test_a_member_that_lies_very_deep_is_refused(write: Writer, tmp_path: Path) -> None:
    archive = write(tmp_path, {"d/" * 900 + "f": b"x"})
    assert "more than 100 folders deep" in refused(archive, tmp_path / "out")


def test_names_are_shown_without_signs_that_speak_to_a_terminal(tmp_path: Path) -> None:
    twice = [(entry("\x1b]0;a", 1), b"x"), (entry("\x1b]0;a", 1), b"x")]
    assert "'_]0;a' twice" in refused(write_entries(tmp_path, twice), tmp_path / "out")
