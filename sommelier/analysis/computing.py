"""What long computations with torch share: their device, their threads, and how they are stopped.

Importing this loads no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sommelier.errors import AnalysisError, MissingDependencyError

Cancelled = Callable[[], bool]  # whether the user asked for an end


def check_device(name: str) -> None:
    """Raises MissingDependencyError without torch, AnalysisError where it lacks the device."""
    try:
        import torch
    except ImportError as error:
        raise MissingDependencyError(
            "this needs torch, which is not installed",
            hint="pip install 'sommelier-db[torch]'",
        ) from error
    try:
        device = torch.device(name)
        there = (device.index or 0) < torch.get_device_module(device.type).device_count()
    except RuntimeError:  # no name of a device, or of one that nothing is computed on
        there = False
    if not there:
        cards = [str(torch.device(card)) for card in range(torch.accelerator.device_count())]
        raise AnalysisError(
            f"there is no device '{name}' for torch here",
            hint=f"one of {', '.join(['cpu', *cards])}",
        )


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Lets torch use so many threads, and as many as before afterwards."""
    import torch

    usual = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(usual)
