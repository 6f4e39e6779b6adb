"""Models of transformers: small ones of the library itself, saved, exported, held against it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from sommelier.analysis.conversion import transformers_models
from sommelier.analysis.conversion.values import ConversionRequest
from sommelier.errors import RejectedModelError

pytest.importorskip("transformers")

import torch
import transformers


def bert() -> Any:
    config = transformers.BertConfig(
        vocab_size=60, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, num_labels=3,
    )  # fmt: skip
    return transformers.BertForSequenceClassification(config)


def gpt2() -> Any:
    config = transformers.GPT2Config(vocab_size=60, n_embd=16, n_layer=1, n_head=2, n_positions=64)
    return transformers.GPT2LMHeadModel(config)


def vit() -> Any:
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        image_size=16, patch_size=4, num_labels=4,
    )  # fmt: skip
    return transformers.ViTForImageClassification(config)


def t5() -> Any:
    config = transformers.T5Config(
        vocab_size=60, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2
    )
    return transformers.T5ForConditionalGeneration(config)


def saved(make: Callable[[], Any], folder: Path) -> tuple[Any, Path]:
    """(the model in evaluation mode, its configuration's file)."""
    torch.manual_seed(0)
    model = make().eval()
    model.save_pretrained(folder)
    return model, folder / "config.json"


def converted(config: Path, folder: Path) -> onnxruntime.InferenceSession:
    folder.mkdir()
    made = transformers_models.convert_transformers(ConversionRequest(config, folder, {}))
    return onnxruntime.InferenceSession(str(made.path))


@pytest.mark.parametrize("make", [bert, gpt2], ids=["encoder", "decoder"])
def test_a_text_of_any_length_is_answered_as_by_the_library(
    tmp_path: Path, make: Callable[[], Any]
) -> None:
    model, config = saved(make, tmp_path / "saved")
    session = converted(config, tmp_path / "onnx")
    names = [one.name for one in session.get_inputs()]
    assert names[:2] == ["input_ids", "attention_mask"]
    rng = np.random.default_rng(0)
    for count, length in ((1, 5), (4, 23)):
        feed = {"input_ids": rng.integers(0, 60, (count, length))}
        feed["attention_mask"] = np.ones((count, length), dtype=np.int64)
        if "token_type_ids" in names:
            feed["token_type_ids"] = rng.integers(0, 2, (count, length))
        with torch.no_grad():
            wanted = model(**{name: torch.from_numpy(x) for name, x in feed.items()}).logits
        np.testing.assert_allclose(session.run(["logits"], feed)[0], wanted.numpy(), atol=1e-5)


def test_images_are_answered_as_by_the_library(tmp_path: Path) -> None:
    model, config = saved(vit, tmp_path / "saved")
    session = converted(config, tmp_path / "onnx")
    x = np.random.default_rng(0).normal(size=(3, 3, 16, 16)).astype("f4")
    with torch.no_grad():
        wanted = model(torch.from_numpy(x)).logits.numpy()
    np.testing.assert_allclose(session.run(["logits"], {"pixel_values": x})[0], wanted, atol=1e-5)


def test_what_writes_step_by_step_is_refused(tmp_path: Path) -> None:
    _, config = saved(t5, tmp_path / "saved")
    with pytest.raises(RejectedModelError, match="step by step"):
        converted(config, tmp_path / "onnx")


def test_code_of_the_repository_is_not_run(tmp_path: Path) -> None:
    _, config = saved(vit, tmp_path / "saved")
    said = json.loads(config.read_text())
    said |= {"architectures": ["Own"], "auto_map": {"AutoModel": "own.Own"}}
    config.write_text(json.dumps(said))
    (config.parent / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(RejectedModelError, match=r"no architecture 'Own'; it is made by code"):
        converted(config, tmp_path / "onnx")
    assert not (tmp_path / "ran").exists()


def test_weights_that_are_missing_would_be_random_and_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    _, config = saved(vit, tmp_path / "saved")
    weights = config.parent / "model.safetensors"
    kept = {name: x for name, x in load_file(weights).items() if not name.startswith("classifier")}
    save_file(kept, weights, metadata={"format": "pt"})
    with pytest.raises(RejectedModelError, match="2 of its weights are not in its files"):
        converted(config, tmp_path / "onnx")


def test_a_pickle_is_not_read(tmp_path: Path) -> None:
    model, config = saved(vit, tmp_path / "saved")
    (config.parent / "model.safetensors").unlink()
    torch.save(model.state_dict(), config.parent / "pytorch_model.bin")
    with pytest.raises(RejectedModelError, match="transformers cannot load it"):
        converted(config, tmp_path / "onnx")


@pytest.mark.parametrize(
    ("content", "said"),
    [("{", "cannot be read"), ("[]", "not an object"), ("{}", "names no architecture")],
)
def test_a_broken_configuration_is_refused(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(RejectedModelError, match=said):
        converted(tmp_path / "config.json", tmp_path / "onnx")
