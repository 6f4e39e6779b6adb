"""Real models of the zoo that answer the same question, and their answers to the same inputs.

A ladder of CIFAR-10 classifiers on the test images, MobileNets on one ImageNet picture a class, and
versions of Magika on files of this machine.
"""

from __future__ import annotations

import os
import sys
import sysconfig
import tempfile
import zipfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.link_tasks import Group
from benchmarks.populations import TORCH
from benchmarks.zoo_pairs import prepared
from sommelier.analysis.answers import AnswerCollector
from sommelier.analysis.datasets import load
from sommelier.analysis.execution import RunRequest, open_model
from sommelier.analysis.links import LinkAnswers, format_of, natural
from sommelier.analysis.preprocessing import validated
from sommelier.analysis.probes import dataset_probes
from sommelier.records import OutputKind, Preprocessing

LADDER = ("ic_resnet8", "cifar10_resnet20", "cifar10_resnet32", "cifar10_resnet44",
          "cifar10_resnet56")  # fmt: skip
IMAGES, QUICK_IMAGES = 4_000, 800
MOBILENETS = {  # the side of their pictures
    "mnv1_025_128q": 128,
    "coral_mobilenet_v1_0.5_160_quant": 160,
    "coral_mobilenet_v1_0.75_192_quant": 192,
    "mnv2_10_224q": 224,
    "coral_tf2_mobilenet_v2_1.0_224_ptq": 224,
}
CROPPED = 0.875  # share of the resized picture's side
MAGIKA = {  # bytes of the beginning and of the end
    "magika_fast_v2_1": (512, 512),
    "magika_standard_v2_1": (2048, 2048),
    "magika_standard_v3_0": (1024, 1024),
    "magika_standard_v3_3": (1024, 1024),
}
FILES, SAME_SUFFIX = 1_000, 10  # at most; a machine has most files of few types
FILE_BYTES = (32, 1_000_000)


def zoo_groups(*, quick: bool, seed: int) -> Iterator[Group]:
    """The CIFAR ladder, and unless `quick` MobileNets and Magika; nothing without SOMMELIER_ZOO."""
    folder = os.environ.get("SOMMELIER_ZOO")
    if not folder:
        return
    if quick:
        yield _ladder(Path(folder), QUICK_IMAGES, seed, LADDER[:3])
    else:
        yield _ladder(Path(folder), IMAGES, seed, LADDER)
        yield _mobilenets(Path(folder))
        yield _magika(Path(folder), seed)


def _ladder(zoo: Path, images: int, seed: int, names: tuple[str, ...]) -> Group:
    dataset = zoo / "data" / "cifar10_test.npz"
    specs = {name: TORCH if name.startswith("cifar10") else None for name in names}
    answers, rows = _answers(zoo, dataset, specs, samples=images, seed=seed)
    pixels = np.load(dataset)["x"][rows]
    short = {name.removeprefix("cifar10_"): found for name, found in answers.items()}
    return Group("CIFAR-10", short, prepared(names[-1], pixels))


def _mobilenets(zoo: Path) -> Group:
    specs = {}
    for name, side in MOBILENETS.items():
        steps = [
            ("resize_short", {"size": int(side / CROPPED), "filter": "bicubic"}),
            ("center_crop", {"size": [side, side]}),
            ("cast", {"dtype": "uint8"}),
        ]
        specs[name] = validated(steps)
    dataset = zoo / "data" / "imagenet_sample_1000_256px.zip"
    answers, _ = _answers(zoo, dataset, specs)
    names = ("v1 .25 128", "v1 .5 160", "v1 .75 192", "v2 224", "v2 224 tf2")
    return Group("ImageNet", dict(zip(names, answers.values(), strict=True)))


def _magika(zoo: Path, seed: int) -> Group:
    specs = {}
    for name, (begin, end) in MAGIKA.items():
        cut = {"begin": begin, "middle": 0, "end": end, "padding": 256, "block_size": 4096}
        specs[name] = validated([("file_bytes", cut), ("cast", {"dtype": "int32"})])
    chosen = _files(seed)
    with tempfile.TemporaryDirectory() as place:
        dataset = Path(place) / "files.zip"
        with zipfile.ZipFile(dataset, "w") as archive:
            for number, path in enumerate(chosen):
                archive.writestr(f"{number:05}{path.suffix}", path.read_bytes())
        answers, _ = _answers(zoo, dataset, specs, options={"kind": "file", "label_from": "none"})
    suffixes = len({path.suffix for path in chosen})
    print(f"  {len(chosen)} files of this machine with {suffixes} different suffixes")
    short = {name.removeprefix("magika_"): found for name, found in answers.items()}
    return Group("file types", short)


def _files(seed: int) -> list[Path]:
    """Readable files of many types, at most SAME_SUFFIX of each."""
    rng = np.random.default_rng(seed)
    roots = ["/etc", "/usr/lib", "/usr/share", sys.prefix, sysconfig.get_paths()["stdlib"]]
    by_suffix: dict[str, list[Path]] = defaultdict(list)
    for root in roots:
        for folder, _, names in os.walk(root):
            for name in names:
                by_suffix[Path(name).suffix.lower()].append(Path(folder, name))
    found: list[Path] = []
    for suffix in sorted(by_suffix):
        paths = sorted(set(by_suffix[suffix]))
        drawn = (paths[at] for at in rng.permutation(len(paths))[: 4 * SAME_SUFFIX])
        found += [path for path in drawn if _readable(path)][:SAME_SUFFIX]
    return [found[at] for at in np.sort(rng.permutation(len(found))[:FILES])]


def _readable(path: Path) -> bool:
    least, most = FILE_BYTES
    usual = path.is_file() and not path.is_symlink() and os.access(path, os.R_OK)
    return usual and least <= path.stat().st_size <= most


def _answers(
    zoo: Path,
    dataset: Path,
    specs: Mapping[str, Preprocessing | None],
    *,
    samples: int | None = None,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
) -> tuple[dict[str, LinkAnswers], NDArray[np.int64]]:
    """Every model's answers to a sample of the dataset (None: all), and which items these are."""
    kind = OutputKind.CLASSIFICATION
    collect = partial(AnswerCollector, kind, keep_bytes=np.inf)
    answers = {}
    with load(dataset, options) as items:
        probes = dataset_probes(items, samples=samples or len(items), seed=seed)
        for name, spec in specs.items():
            request = RunRequest(zoo / "onnx" / f"{name}.onnx", kind, spec, probes, threads=2)
            found = open_model(request, items).run(probes, collect)
            assert found.outputs is not None, "all bytes are kept"
            raw = found.outputs["outputs"]
            answers[name] = natural(raw, format_of(kind, raw))
        rows = np.arange(len(items)) if probes.indices is None else probes.indices
    return answers, np.asarray(rows, dtype=np.int64)
