"""hubconf.py is read as syntax: what is found is what running it would find, without running it."""

from __future__ import annotations

import importlib
import sys
import time
from pathlib import Path

import pytest

from sommelier.connectors.hubconf import read_hubconf
from sommelier.errors import RejectedModelError

RESNET = "__all__ = ['resnet18']\ndef resnet18(weights=None): pass\ndef helper(): pass\n"
VGG = "def vgg11(): pass\ndef _private(): pass\n"
PACKAGE = {"models/resnet.py": RESNET, "models/vgg.py": VGG, "models/__init__.py": ""}


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, source in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(source)
    return folder


def found(folder: Path) -> list[str]:
    return [entry.name for entry in read_hubconf(folder).entries]


def run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The public callables of hubconf.py once it is run, as torch.hub.list finds them."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(folder))
    try:
        names = vars(importlib.import_module("hubconf")).items()
        return sorted(name for name, value in names if callable(value) and name[0] != "_")
    finally:
        for name in set(sys.modules) - before:
            del sys.modules[name]


@pytest.mark.parametrize(
    "files",
    [
        {"hubconf.py": "from models import *", "models/__init__.py": "from .resnet import *"},
        {"hubconf.py": "import models.resnet\nresnet18 = models.resnet.resnet18"},
        {"hubconf.py": "from models import resnet\nresnet18 = net = resnet.resnet18"},
        {"hubconf.py": "import models.vgg as vgg\na, b = vgg.vgg11, 1"},
        {
            "hubconf.py": "from models import *",
            "models/__init__.py": "from .vgg import vgg11\nfrom . import resnet\n"
            "from .resnet import *\n__all__ = ['vgg11'] + resnet.__all__",
        },
        {
            "hubconf.py": "from nets import *",
            "nets.py": "__all__ = ['a']\n__all__ += ['b']\n__all__.extend(('c',))\n"
            "def a(): pass\ndef b(): pass\ndef c(): pass\ndef d(): pass",
        },
        {"hubconf.py": "from a import *\nfrom b import *", "a.py": VGG, "b.py": RESNET + VGG},
        {"hubconf.py": "def z(): pass\nfrom a import *", "a.py": VGG},
        {
            "hubconf.py": "from functools import partial as _partial\n"
            "def _make(width):\n    def net(weights=None): pass\n    return net\n"
            "small = _make(1)\nwide = _make\nsize = len('ab')\nnet: object = lambda: None",
        },
        {"hubconf.py": "class Net:\n    def __call__(self, x): pass\nnet = Net()\nother = Net"},
        {
            "hubconf.py": "try:\n    from nowhere import a\nexcept ImportError:\n"
            "    def a(): pass\nif __name__ == '__main__':\n    def b(): pass\nelse:\n"
            "    def c(): pass",
        },
        {"hubconf.py": "from flat.deep import f", "flat/deep.py": "def f(): pass"},
    ],
)  # fmt: skip
def test_what_is_read_is_what_running_it_finds(
    files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path, {**PACKAGE, **files})
    read = found(folder)
    assert read
    assert read == run(folder, monkeypatch)


def test_signatures_are_those_of_what_names_stand_for(tmp_path: Path) -> None:
    source = (
        "from models.resnet import resnet18 as net\n"
        "def _make(n):\n    def one(weights, **rest): pass\n    return one\nsmall = _make(1)"
    )
    entries = read_hubconf(write(tmp_path, {**PACKAGE, "hubconf.py": source})).entries
    assert [entry.signature for entry in entries] == ["net(weights)", "small(weights, ...)"]


def test_of_other_packages_only_functions_of_the_dependencies_count(tmp_path: Path) -> None:
    source = (
        "dependencies = ['torch'] + ['yaml']\nimport yaml\nimport yaml as y\n"
        "from yaml import safe_load, nodes, Loader\nload = yaml.load\n"
        "from PIL import Image\nfrom rapidfuzz.utils import default_process\n"
        "from torch import load as tload\nfrom os import getcwd"
    )
    assert found(write(tmp_path, {"hubconf.py": source})) == ["load", "safe_load"]


def test_imports_do_not_lead_out_of_the_repository_or_in_circles(tmp_path: Path) -> None:
    (tmp_path / "secret.py").write_text("def leaked(): pass")
    inside = write(
        tmp_path / "toy",
        {
            "hubconf.py": "from linked import leaked\nfrom ..secret import leaked as up\n"
            "from hubconf import round_and_round\nfrom round import *\n"
            f"from {'.' * 40} import far\nfrom {'a' * 300} import long\ndef good(): pass",
            "round.py": "from round import *\nfrom hubconf import *\ndef also(): pass",
        },
    )
    (inside / "linked.py").symlink_to(tmp_path / "secret.py")
    assert found(inside) == ["also", "good"]


def test_stars_that_import_each_other_are_read_in_a_moment(tmp_path: Path) -> None:
    count = 12
    stars = "\n".join(f"from m{n} import *" for n in range(count))
    files = {f"m{n}.py": f"{stars}\ndef f{n}(): pass" for n in range(count)}
    missing = "\n".join(f"from m0 import absent{n}" for n in range(50))
    start = time.perf_counter()
    names = found(write(tmp_path, {**files, "hubconf.py": f"{stars}\n{missing}"}))
    assert names == sorted(f"f{n}" for n in range(count))
    assert time.perf_counter() - start < 10


def test_imports_that_nobody_could_follow_are_refused(tmp_path: Path) -> None:
    stars = "\n".join(f"from m{n} import *" for n in range(40))
    many = "\n".join(f"x{n} = y{n}" for n in range(1500))
    files = {f"m{n}.py": f"{stars}\n{many}" for n in range(40)}
    with pytest.raises(RejectedModelError, match="entangled"):
        found(write(tmp_path, {**files, "hubconf.py": stars}))


def test_source_code_beyond_all_measure_is_not_read(tmp_path: Path) -> None:
    files = {f"m{n}.py": "#" * 199_000 for n in range(21)}
    source = "\n".join(f"from m{n} import *" for n in range(21))
    with pytest.raises(RejectedModelError, match="more source code"):
        found(write(tmp_path, {**files, "hubconf.py": source}))


def test_a_long_chain_of_names_is_left_where_it_is(tmp_path: Path) -> None:
    chain = "\n".join(f"a{n} = a{n + 1}" for n in range(2000))
    dotted = "b = c" + ".d" * 2000
    names = found(write(tmp_path, {"hubconf.py": f"{chain}\n{dotted}\ndef good(): pass"}))
    assert names == ["good"]


def test_a_file_too_large_for_source_code_is_refused_unread(tmp_path: Path) -> None:
    write(tmp_path, {"hubconf.py": "a\n" * 150_000 + "def net(): pass\n"})
    with pytest.raises(RejectedModelError, match=r"hubconf\.py is too large for source code"):
        read_hubconf(tmp_path)
