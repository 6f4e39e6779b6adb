"""The three families that are fused, small or as large as in the papers that made them known."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

POOL = 0  # in a list of widths: halve the sides


class Vgg(nn.Module):
    """3x3 convolutions with normalisation; the head has one hidden layer.

    widths : channels of each convolution, POOL between them. side : of the square images.
    """

    def __init__(
        self, widths: Sequence[int], *, hidden: int, side: int, channels: int, classes: int
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before, left = channels, side
        for width in widths:
            if width == POOL:
                layers.append(nn.MaxPool2d(2))
                left //= 2
                continue
            layers += [*_normalised(before, width, 3, 1), nn.ReLU()]
            before = width
        self.trunk = nn.Sequential(*layers)
        self.hidden = nn.Linear(before * left * left, hidden)
        self.head = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(functional.relu(self.hidden(self.trunk(x).flatten(1))))
        return found


class Resnet(nn.Module):
    """A stem, `depths[i]` basic blocks of `widths[i]` channels, and the mean of what they give.

    The stem and each stage but the first halve the sides.
    """

    def __init__(
        self, widths: Sequence[int], depths: Sequence[int], *, channels: int, classes: int
    ) -> None:
        super().__init__()
        stem = [*_normalised(channels, widths[0], 3, 2), nn.ReLU()]
        before, blocks = widths[0], list[nn.Module]()
        for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            for place in range(depth):
                blocks.append(_Basic(before, width, 2 if stage and not place else 1))
                before = width
        self.trunk = nn.Sequential(*stem, *blocks)
        self.head = nn.Linear(before, classes)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.trunk(x).mean((2, 3)))
        return found


class Vit(nn.Module):
    """Patches as tokens, encoder layers with normalisation first, and the mean of all tokens."""

    def __init__(
        self, width: int, depth: int, heads: int, *, patch: int, side: int, channels: int,
        classes: int,
    ) -> None:  # fmt: skip
        super().__init__()
        self.embed = nn.Conv2d(channels, width, patch, patch)
        self.place = nn.Parameter(0.02 * torch.randn(1, (side // patch) ** 2, width))
        self.layers = nn.ModuleList(_Encoder(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x).flatten(2).transpose(1, 2) + self.place  # (n, tokens, width)
        for layer in self.layers:
            tokens = layer(tokens)
        found: Tensor = self.head(self.norm(tokens).mean(1))
        return found


class _Basic(nn.Module):
    """Two convolutions and what skips them."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        first, second = _normalised(before, width, 3, stride), _normalised(width, width, 3, 1)
        self.inner = nn.Sequential(*first, nn.ReLU(), *second)
        plain = stride == 1 and before == width
        self.skip = (
            nn.Identity() if plain else nn.Sequential(*_normalised(before, width, 1, stride))
        )

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.inner(x) + self.skip(x))


class _Encoder(nn.Module):
    """Attention and two linear layers, both beside what skips them."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.behind = nn.LayerNorm(width), nn.LayerNorm(width)
        self.asks, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, width = x.shape
        asked = self.asks(self.before(x)).reshape(n, tokens, 3, self.heads, width // self.heads)
        asked = asked.permute(2, 0, 3, 1, 4)  # (3, n, heads, tokens, width / heads)
        q, k, v = asked[0], asked[1], asked[2]
        weights = (q @ k.transpose(2, 3) * (width // self.heads) ** -0.5).softmax(-1)
        x = x + self.out((weights @ v).transpose(1, 2).reshape(n, tokens, width))
        inner = functional.gelu(self.wide(self.behind(x)))
        found: Tensor = x + self.narrow(inner)
        return found


def _normalised(before: int, width: int, kernel: int, stride: int) -> tuple[nn.Module, nn.Module]:
    convolution = nn.Conv2d(before, width, kernel, stride, kernel // 2, bias=False)
    return convolution, nn.BatchNorm2d(width)
