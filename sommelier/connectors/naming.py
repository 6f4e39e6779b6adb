"""Names for models whose files say nothing better than 'model.onnx'."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from itertools import pairwise, takewhile
from pathlib import PurePath

_GENERIC = frozenset({"model", "network", "net", "weights", "saved_model"})


def distinct_names(paths: Sequence[PurePath], *, folders: Collection[PurePath] = ()) -> list[str]:
    """A name for each path: its stem, with as many parent folders as make it one of a kind.

    A stem that says nothing takes its folder along; one that files of one folder share, as
    classifier.keras and classifier.tflite do, keeps its suffix. folders : those of the paths that
    are folders, whose names have no suffix.

    >>> distinct_names([PurePath("zoo/resnet20.onnx"), PurePath("zoo/mobilenet/model.onnx")])
    ['resnet20', 'mobilenet/model']
    >>> distinct_names([PurePath("a/net/x.onnx"), PurePath("b/net/x.onnx")])
    ['a/net/x', 'b/net/x']
    >>> distinct_names([PurePath("zoo/vgg.keras"), PurePath("zoo/vgg.tflite")])
    ['vgg.keras', 'vgg.tflite']
    >>> distinct_names([PurePath("zoo/net.v2")], folders=[PurePath("zoo/net.v2")])
    ['net.v2']
    """
    stems = {path: path if path in folders else path.with_suffix("") for path in paths}
    sharing = Counter(stems.values())
    depths = [2 if stems[path].name.lower() in _GENERIC else 1 for path in paths]
    bare = [_parts(path if sharing[stems[path]] > 1 else stems[path]) for path in paths]
    needed = map(max, depths, _distinct(bare))
    return ["/".join(parts[-depth:]) for parts, depth in zip(bare, needed, strict=True)]


def kinds_of(files: Iterable[PurePath]) -> str:
    """How many files of which kind there are, to say what is there instead of models.

    >>> kinds_of([PurePath("a.json"), PurePath("b.json"), PurePath("LICENSE")])
    '2 .json, 1 LICENSE'
    """
    kinds = Counter(file.suffix or file.name for file in files)
    return printable(", ".join(f"{n} {kind}" for kind, n in kinds.most_common(5))) or "nothing"


def printable(text: str) -> str:
    """`text` in characters a table can show and a database can store.

    >>> printable("a\\nb")
    'a_b'
    """
    encoded = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(char if char.isprintable() else "_" for char in encoded)


def _parts(path: PurePath) -> list[str]:
    parts = (part for part in path.parts if part not in ("/", ".", ".."))
    return printable("/".join(parts)).split("/")


def _distinct(paths: Sequence[list[str]]) -> list[int]:
    """How many of the last parts of each path tell it from all others: one more than it shares with
    the one beside it, where they are sorted by their last parts."""
    ends = [parts[::-1] for parts in paths]
    needed = [1] * len(ends)
    for one, other in pairwise(sorted(range(len(ends)), key=ends.__getitem__)):
        same = zip(ends[one], ends[other], strict=False)
        shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], same))
        needed[one] = max(needed[one], shared + 1)
        needed[other] = max(needed[other], shared + 1)
    return needed
