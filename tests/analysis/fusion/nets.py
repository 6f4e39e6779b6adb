"""Small networks of the families that are fused, as torch modules, and their ONNX exports."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import ModelProto
from torch import Tensor, nn
from torch.nn import functional

Array = NDArray[Any]
Exporter = Literal["dynamo", "torchscript"]


class Vgg(nn.Module):
    """3x3 convolutions with ReLU, pooling after those of `pools`; the head takes the mean.

    flat : the head flattens and has a hidden layer instead. norm : batch normalisation.
    """

    def __init__(
        self, widths: Sequence[int], pools: Sequence[int], classes: int, *, channels: int = 3,
        side: int = 16, norm: bool = False, flat: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.convs, self.norms, self.pools, self.flat = (
            nn.ModuleList(),
            nn.ModuleList(),
            pools,
            flat,
        )
        before = channels
        for width in widths:
            self.convs.append(nn.Conv2d(before, width, 3, padding=1))
            self.norms.append(nn.BatchNorm2d(width) if norm else nn.Identity())
            before = width
        left = side // 2 ** len(pools)
        hidden = nn.Linear(before * left * left, 24)
        self.head = nn.ModuleList(
            [hidden, nn.Linear(24, classes)] if flat else [nn.Linear(before, classes)]
        )

    def forward(self, x: Tensor) -> Tensor:
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = functional.relu(norm(conv(x)))
            if i in self.pools:
                x = functional.max_pool2d(x, 2)
        x = x.flatten(1) if self.flat else x.mean((2, 3))
        if self.flat:
            x = functional.relu(self.head[0](x))
        found: Tensor = self.head[-1](x)
        return found


class _Basic(nn.Module):
    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.a = nn.Conv2d(before, width, 3, stride, 1, bias=False)
        self.b = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.an, self.bn = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
        plain = stride == 1 and before == width
        self.skip = nn.Identity() if plain else nn.Conv2d(before, width, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.bn(self.b(functional.relu(self.an(self.a(x)))))
        return functional.relu(inner + self.skip(x))


def resnet(widths: Sequence[int], classes: int) -> nn.Module:
    """A stem and one basic block a width, each after the first halving the sides."""
    parts: list[nn.Module] = [nn.Conv2d(3, widths[0], 3, padding=1), nn.ReLU()]
    before = widths[0]
    for i, width in enumerate(widths):
        parts += [_Basic(before, width, 2 if i else 1), _Basic(width, width, 1)]
        before = width
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, classes))


class _Inverted(nn.Module):
    """Expand, depthwise, squeeze and excite, project; a skip where shapes allow."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        inner = 3 * before
        self.expand, self.project = nn.Conv2d(before, inner, 1), nn.Conv2d(inner, width, 1)
        self.depthwise = nn.Conv2d(inner, inner, 3, stride, 1, groups=inner)
        self.down, self.up = nn.Conv2d(inner, 4, 1), nn.Conv2d(4, inner, 1)
        self.skip = stride == 1 and before == width

    def forward(self, x: Tensor) -> Tensor:
        y = functional.hardswish(self.expand(x))
        y = functional.hardswish(self.depthwise(y))
        gate = torch.sigmoid(self.up(functional.relu(self.down(y.mean((2, 3), keepdim=True)))))
        found: Tensor = self.project(y * gate)
        return x + found if self.skip else found


def mobilenet(widths: Sequence[int], classes: int) -> nn.Module:
    parts: list[nn.Module] = [nn.Conv2d(3, widths[0], 3, 2, 1), nn.Hardswish()]
    before = widths[0]
    for i, width in enumerate(widths):
        parts += [_Inverted(before, width, 2 if i else 1), _Inverted(width, width, 1)]
        before = width
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, classes))


class Vit(nn.Module):
    """Patches of 4 x 4 pixels, a class token, encoder layers (normalisation first), a head."""

    def __init__(self, width: int, layers: int, classes: int, *, side: int = 16) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, width) * 0.2)
        self.places = nn.Parameter(torch.randn(1, (side // 4) ** 2 + 1, width) * 0.2)
        layer = nn.TransformerEncoderLayer(
            width, 2, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        whole = torch.cat([self.token.expand(x.shape[0], -1, -1), tokens], 1) + self.places
        found: Tensor = self.head(self.norm(self.layers(whole))[:, 0])
        return found


class _Layer(nn.Module):
    """Attention written out, normalisation last."""

    def __init__(self, width: int, heads: int = 2) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.first, self.second, self.heads = nn.LayerNorm(width), nn.LayerNorm(width), heads

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        n, t, d = x.shape
        q, k, v = (
            f(x).view(n, t, self.heads, -1).transpose(1, 2) for f in (self.q, self.k, self.v)
        )
        weights = (q @ k.transpose(-1, -2) / (d // self.heads) ** 0.5 + mask).softmax(-1)
        mixed = self.out((weights @ v).transpose(1, 2).reshape(n, t, d))
        x = self.first(x + mixed)
        found: Tensor = self.second(x + self.down(functional.gelu(self.up(x))))
        return found


class Bert(nn.Module):
    """Token and place embeddings, encoder layers (normalisation last) with a mask, a pooler."""

    def __init__(self, width: int, layers: int, classes: int, *, words: int = 20) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(words, width), nn.Embedding(8, width)
        self.norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList(_Layer(width) for _ in range(layers))
        self.pool, self.head = nn.Linear(width, width), nn.Linear(width, classes)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        places = torch.arange(ids.shape[1])
        x = self.norm(self.words(ids) + self.places(places))
        hidden = (1.0 - mask[:, None, None, :].float()) * -1e4
        for layer in self.layers:
            x = layer(x, hidden)
        found: Tensor = self.head(torch.tanh(self.pool(x[:, 0])))
        return found


def export(
    net: nn.Module, inputs: Sequence[Tensor], *, exporter: Exporter = "dynamo", opset: int = 18,
    fixed: bool = False, names: Sequence[str] = ("x",), outputs: Sequence[str] = ("y",),
) -> ModelProto:  # fmt: skip
    """The net's ONNX graph as torch writes it. fixed : the batch is that of the inputs."""
    buffer: Any = io.BytesIO()  # torch writes to files too, and states paths only
    options: dict[str, Any] = {}
    if not fixed and exporter == "dynamo":
        options["dynamic_shapes"] = tuple(
            {0: torch.export.Dim("n", min=1, max=512)} for _ in inputs
        )
    elif not fixed:
        options["dynamic_axes"] = {name: {0: "n"} for name in names}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net.eval(), tuple(inputs), buffer, input_names=list(names), output_names=list(outputs),
            opset_version=opset, dynamo=exporter == "dynamo", verbose=False, **options,
        )  # fmt: skip
    return onnx.load_model_from_string(buffer.getvalue())


def images(count: int, *, side: int = 16, seed: int = 0) -> Array:
    """Smooth random images: what neighbouring pixels have in common, features have too."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.standard_normal((count, 3, side // 4, side // 4)))
    fine = functional.interpolate(coarse, size=(side, side), mode="bilinear")
    noise = rng.standard_normal((count, 3, side, side))
    return np.asarray(fine.numpy() + 0.2 * noise, np.float32)


def run(model: ModelProto, feed: dict[str, Array]) -> list[Array]:
    """What ONNX Runtime answers."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString())
    return [np.asarray(a) for a in session.run(None, feed)]
