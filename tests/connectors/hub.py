"""A small repository of PyTorch Hub: its hubconf.py leaves a file behind when it is run."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

HUBCONF = '''
"""Models of a test."""
from pathlib import Path as _Path

import torch
from functools import partial
from nets import Net as _Net, tiny
from nets.more import *
from typing import Optional

dependencies = ["torch"]
_Path({executed!r}).write_text("hubconf.py was run")

if True:
    def small(weights: Optional[str] = None, width=5):
        """A small classifier of 3x8x8 images.

        weights : 'DEFAULT' for learned ones.
        """
        torch.manual_seed(3 if weights else 0)
        return _Net(width)

wide = partial(_Net, width=9)
alias = small
SIZE = 8


def _private():
    """Not an entry."""


def old(pretrained=False, **kwargs):
    return _Net()
'''
NETS = '''
def tiny(progress=True):
    """The smallest one."""
    return Net(2)
'''
MORE = """
__all__ = ["starred"]


def starred(*, depth):
    return None


def hidden():
    return None
"""


def write_repository(folder: Path, executed: Path, net: str) -> Path:
    """The repository's files in `folder`. executed : what running hubconf.py writes."""
    (folder / "nets").mkdir(parents=True)
    (folder / "hubconf.py").write_text(HUBCONF.format(executed=str(executed)))
    (folder / "nets" / "__init__.py").write_text(net + NETS)
    (folder / "nets" / "more.py").write_text(MORE)
    return folder


def zipball(folder: Path, root: str = "owner-toy-0123abc") -> bytes:
    """The folder as GitHub sends it: a zip of one folder."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for file in sorted(folder.rglob("*.py")):
            archive.write(file, f"{root}/{file.relative_to(folder).as_posix()}")
    return stream.getvalue()
