"""Weights as trainers and hubs keep them, and the module they fit."""

from __future__ import annotations

import json
import pickle
import struct
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sommelier.analysis.conversion.torch_weights import fitting, read_weights
from sommelier.errors import RejectedModelError

WEIGHTS = nn.Linear(3, 2).state_dict()
OPTIMISER = {"state": {0: {"step": torch.ones(1)}}, "param_groups": [{"lr": 0.1}]}


def same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> bool:
    return set(found) == set(wanted) and all(torch.equal(found[n], wanted[n]) for n in found)


@pytest.mark.parametrize(
    "kept",
    [
        WEIGHTS,
        {"net": WEIGHTS, "optimizer": OPTIMISER, "epoch": 3},
        {"ema": WEIGHTS, "optimizer": OPTIMISER},
        {"ema": {"weight": torch.zeros(2, 3)}, "model": WEIGHTS},
        {"checkpoint": 1, "model": {"state_dict": WEIGHTS, "step": 2}},
    ],
)
def test_weights_are_found_where_trainers_put_them(tmp_path: Path, kept: object) -> None:
    torch.save(kept, tmp_path / "w.pt")
    assert same(read_weights(tmp_path / "w.pt"), WEIGHTS)


def test_a_file_without_weights_is_refused_with_what_it_has(tmp_path: Path) -> None:
    torch.save({"optimizer": OPTIMISER, "epoch": 3}, tmp_path / "w.pt")
    with pytest.raises(RejectedModelError, match=r"\(it has optimizer, epoch\)"):
        read_weights(tmp_path / "w.pt")


@pytest.mark.parametrize(
    "prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "model.", "net.model."]
)
def test_what_wrappers_put_before_names_is_dropped_to_fit(prefix: str) -> None:
    wrapped = {f"{prefix}{name}": tensor for name, tensor in WEIGHTS.items()}
    assert same(fitting(wrapped, WEIGHTS.keys()), WEIGHTS)


def test_names_that_a_module_really_has_are_kept() -> None:
    module = nn.ModuleDict({"module": nn.Linear(3, 2)})
    weights = module.state_dict()
    assert same(fitting(weights, weights.keys()), weights)
    assert same(fitting(weights, ["other.weight"]), weights)
    inner = {"layer._orig_mod.weight": torch.ones(1)}
    assert set(fitting(inner, ["layer.weight"])) == {"layer.weight"}


def write_safetensors(path: Path, entries: dict[str, dict[str, object]], body: bytes) -> Path:
    text = json.dumps(entries).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)
    return path


def test_any_spelling_of_the_suffix_and_eight_bit_floats_are_read(tmp_path: Path) -> None:
    wanted = torch.tensor([0.5, -2.0]).to(torch.float8_e4m3fn)
    entry = {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]}
    body = wanted.view(torch.uint8).numpy().tobytes()
    path = write_safetensors(tmp_path / "w.SAFETENSORS", {"w": entry}, body)
    assert read_weights(path)["w"].float().tolist() == [0.5, -2.0]


@pytest.mark.parametrize("offsets", [[0, 4], [0, 16], [4, 8], [8, 0]])
def test_an_entry_whose_offsets_do_not_fit_its_shape_is_refused(
    tmp_path: Path, offsets: list[int]
) -> None:
    entry: dict[str, object] = {"dtype": "F32", "shape": [2], "data_offsets": offsets}
    path = write_safetensors(tmp_path / "w.safetensors", {"w": entry}, bytes(16))
    with pytest.raises(RejectedModelError, match="offsets that do not fit"):
        read_weights(path)


def shards(folder: Path) -> list[Path]:
    """WEIGHTS in two files with their index."""
    paths = []
    for place, (name, tensor) in enumerate(WEIGHTS.items(), start=1):
        entry: dict[str, object] = {
            "dtype": "F32", "shape": list(tensor.shape), "data_offsets": [0, 4 * tensor.numel()]
        }  # fmt: skip
        path = folder / f"model-{place:05}-of-00002.safetensors"
        paths.append(write_safetensors(path, {name: entry}, tensor.numpy().tobytes()))
    listed = dict(zip(WEIGHTS, (path.name for path in paths), strict=True))
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": listed}))
    return [*paths, index]


def test_every_file_of_a_model_in_several_files_stands_for_all(tmp_path: Path) -> None:
    first, second, index = shards(tmp_path)
    for path in (first, second, index):
        assert same(read_weights(path), WEIGHTS)
    second.unlink()
    with pytest.raises(RejectedModelError, match=f"'{second.name}' is missing"):
        read_weights(first)
    index.write_text(json.dumps({"weight_map": {"weight": "../secret.safetensors"}}))
    with pytest.raises(RejectedModelError, match="names files elsewhere"):
        read_weights(first)
    index.unlink()
    with pytest.raises(RejectedModelError, match="cannot be read"):
        read_weights(first)


class _Bomb:
    def __reduce__(self) -> tuple[object, ...]:
        return print, ("run",)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_bare_pickle_is_refused_by_what_it_would_call(
    protocol: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "raw.pt"
    file.write_bytes(pickle.dumps(_Bomb(), protocol))
    with pytest.raises(RejectedModelError, match=r"it calls \w+\.print; only tensors") as caught:
        read_weights(file)
    assert "weights_only" not in str(caught.value)  # torch's advice is to run it
    assert not capsys.readouterr().out
