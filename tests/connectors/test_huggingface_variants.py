"""Which ONNX files of a repository are its model, its variants and its parts."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest

from sommelier.connectors.huggingface_variants import is_variant, roles


@pytest.mark.parametrize(
    ("path", "variant"),
    [
        ("model.onnx", None),
        ("onnx/model_fp16.onnx", "fp16"),
        ("int8/model.onnx", "int8"),
        ("onnx/fp16/model.onnx", "fp16"),
        ("cpu-int4-rtn-block-32/model.onnx", "int4-rtn-block-32"),
        ("cpu_and_mobile/cpu-int4-awq-block-128/model.onnx", "int4-awq-block-128"),
        ("model_qint8.onnx", "qint8"),
        ("model-int8.onnx", "int8"),
        ("model_q8f16.onnx", "q8f16"),
        ("model_int8_dynamic.onnx", "int8_dynamic"),
        ("model.quant.onnx", "quant"),
        ("model_q4_0.onnx", "q4_0"),
        ("onnx/model_qint8_avx512_vnni.onnx", "qint8_avx512_vnni"),
        ("onnx/model_O4.onnx", "o4"),
        ("quantized.onnx", "quantized"),
        ("Qwen2.5-0.5B.onnx", None),
        ("half_plus_two.onnx", None),
        ("resnet50-v2-7.onnx", None),
        ("efficientnet-lite4-11-int8.onnx", "int8"),
    ],
)
def test_a_variant_is_read_from_the_name_of_the_file_or_its_folder(
    path: str, variant: str | None
) -> None:
    (role,) = roles("owner/name", [PurePosixPath(path)])
    assert (role.variant, role.whole) == (variant, True)


@pytest.mark.parametrize(
    ("paths", "wholes", "plain"),
    [
        (("model.onnx", "int8/model.onnx", "tokenizer.onnx"), 2, "model.onnx"),
        (("encoder_model.onnx", "decoder_model.onnx", "decoder_model_merged.onnx"), 0, None),
        (("encoder_model.onnx",), 0, None),
        (("unet/model.onnx", "vae_decoder/model.onnx", "text_encoder/model.onnx"), 0, None),
        (("resnet18.onnx", "resnet34.onnx"), 0, None),
        (("name.onnx", "other.onnx"), 1, "name.onnx"),
        (("text_model.onnx", "vision_model.onnx", "model.onnx"), 1, "model.onnx"),
        (("model_fp32.onnx", "model_fp16.onnx"), 2, "model_fp32.onnx"),
        (("model_fp16.onnx", "model_q4.onnx"), 2, None),
        (("model.onnx", "onnx/model.onnx"), 2, None),  # which of them was measured?
        (("cuda/cuda-fp16/phi3.onnx", "cpu-int4-rtn-block-32/phi3.onnx"), 2, None),
    ],
)
def test_one_file_at_most_is_the_whole_model_at_full_precision(
    paths: tuple[str, ...], wholes: int, plain: str | None
) -> None:
    found = roles("owner/name", [PurePosixPath(path) for path in paths])
    assert sum(role.whole for role in found) == wholes
    assert [p for p, role in zip(paths, found, strict=True) if role.plain] == [plain] * bool(plain)


@pytest.mark.parametrize(
    ("variant", "asked", "expected"),
    [
        ("fp16", "fp16", True), ("fp16", "FP16", True), ("qint8_avx512_vnni", "qint8", True),
        ("int4-rtn-block-32", "int4", True), ("q4f16", "q4", False), (None, "fp16", False),
        ("fp16", "fp.6", False),
    ],
)  # fmt: skip
def test_a_variant_is_asked_for_by_its_first_word(
    variant: str | None, asked: str, expected: bool
) -> None:
    assert is_variant(variant, asked) is expected
