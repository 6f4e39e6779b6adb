"""A torch module in evaluation mode for a while, and then as it was found."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


@contextmanager
def evaluation(module: nn.Module) -> Iterator[None]:
    """Every submodule in evaluation mode; afterwards each trains as before, with its buffers.

    A frozen layer in a module that trains stays frozen, and what calls have counted is forgotten.
    """
    import torch

    trained = [(part, part.training) for part in module.modules()]
    buffers = [
        (part, name, buffer, buffer.detach().clone())
        for part in module.modules()
        for name, buffer in part.named_buffers(recurse=False)
    ]
    module.eval()
    try:
        yield
    finally:
        for part, training in trained:
            part.training = training
        with torch.no_grad():
            for part, name, buffer, content in buffers:
                if not torch.equal(buffer, content):  # one that is equal may not be writable
                    buffer.copy_(content)
                if getattr(part, name, None) is not buffer:
                    setattr(part, name, buffer)
