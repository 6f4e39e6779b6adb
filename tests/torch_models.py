"""Small torch modules and the files that torch writes of them."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import torch
from torch import nn

CLASSES = 4
NET = '''
import torch
from torch import nn


class Net(nn.Module):
    """A small classifier of 3x8x8 images."""

    def __init__(self, width=5):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.head = nn.Linear(width, 4)

    def forward(self, image):
        return self.head(torch.relu(self.norm(self.conv(image))).mean((2, 3)))
'''


class Net(nn.Module):
    """The module that NET is the source of."""

    def __init__(self, width: int = 5) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.head(torch.relu(self.norm(self.conv(image))).mean((2, 3)))
        return found


def net(seed: int = 0) -> Net:
    """A Net with seeded weights, in evaluation mode."""
    torch.manual_seed(seed)
    return Net().eval()


def images(count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(9))


def save_program(path: Path, module: nn.Module, *, fixed: bool = False) -> Path:
    """What torch.export.save writes, with an open batch unless it is fixed."""
    shapes = None if fixed else ({0: torch.export.Dim("batch")},)
    program = torch.export.export(module, (images(),), dynamic_shapes=shapes)
    torch.export.save(program, path)
    return path


def save_script(path: Path, module: nn.Module) -> Path:
    torch.jit.trace(module, images()).save(str(path))  # type: ignore[no-untyped-call]  # torch
    return path


def save_safetensors(path: Path, module: nn.Module) -> Path:
    """Written by hand from the format's definition, to compare our reader with."""
    header, body = {}, b""
    names = {torch.float32: "F32", torch.int64: "I64"}
    for name, value in module.state_dict().items():
        data = value.numpy().tobytes()
        place = [len(body), len(body) + len(data)]
        header[name] = {
            "dtype": names[value.dtype], "shape": list(value.shape), "data_offsets": place
        }  # fmt: skip
        body += data
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)
    return path
