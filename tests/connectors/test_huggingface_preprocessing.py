"""What a preprocessor_config.json means, by the class that reads it in transformers."""

from __future__ import annotations

import pytest

from sommelier.analysis.preprocessing import validated
from sommelier.connectors.huggingface_preprocessing import preprocessing

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
NORMAL = {"image_mean": MEAN, "image_std": STD}


def resizing(config: dict[str, object], model_type: str | None = None) -> list[tuple[str, object]]:
    """[(step, size)] of the steps that change a picture's sides."""
    steps = preprocessing({**NORMAL, **config}, model_type)
    assert steps is not None
    validated(steps)
    return [(name, arguments["size"]) for name, arguments in steps if "size" in arguments]


CROPPED = [("resize_short", 256), ("center_crop", [224, 224])]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        # the form of microsoft/resnet-50 and facebook/convnext-tiny-224
        ({"feature_extractor_type": "ConvNextFeatureExtractor", "crop_pct": 0.875, "size": 224,
          "resample": 3, "do_resize": True, "do_normalize": True}, CROPPED),
        ({"image_processor_type": "ConvNextImageProcessorFast", "crop_pct": 0.875,
          "size": {"shortest_edge": 224}}, CROPPED),
        ({"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 224}},
         CROPPED),
        ({"image_processor_type": "ConvNextImageProcessor", "crop_pct": 0.95,
          "size": {"shortest_edge": 288}}, [("resize_short", 303), ("center_crop", [288, 288])]),
        ({"image_processor_type": "ConvNextImageProcessor", "crop_pct": 0.95,
          "size": {"shortest_edge": 384}}, [("resize", [384, 384])]),
        # a bare number is the short side for CLIP, both sides for ViT
        ({"feature_extractor_type": "CLIPFeatureExtractor", "size": 224, "crop_size": 224},
         [("resize_short", 224), ("center_crop", [224, 224])]),
        ({"feature_extractor_type": "ViTFeatureExtractor", "size": 224}, [("resize", [224, 224])]),
        ({"image_processor_type": "ViTImageProcessor", "size": {"height": 200, "width": 100}},
         [("resize", [200, 100])]),
        ({"feature_extractor_type": "DeiTFeatureExtractor", "size": 256, "crop_size": 224,
          "do_center_crop": True}, [("resize", [256, 256]), ("center_crop", [224, 224])]),
        ({"feature_extractor_type": "BeitFeatureExtractor", "size": 224, "crop_size": 224,
          "do_center_crop": False, "reduce_labels": True}, [("resize", [224, 224])]),
        ({"image_processor_type": "LevitImageProcessor", "size": {"shortest_edge": 224},
          "crop_size": {"height": 224, "width": 224}}, CROPPED),
        ({"image_processor_type": "MobileNetV2ImageProcessor", "size": {"shortest_edge": 256},
          "crop_size": {"height": 224, "width": 224}, "do_pad": False, "pad_size": None}, CROPPED),
    ],
)  # fmt: skip
def test_the_class_decides_how_a_picture_gets_its_size(
    config: dict[str, object], expected: list[tuple[str, object]]
) -> None:
    assert resizing(config) == expected


@pytest.mark.parametrize(
    ("model_type", "expected"),
    [("vit", [("resize", [224, 224])]), ("resnet", CROPPED)],
)
def test_the_model_type_decides_where_no_class_is_named(
    model_type: str, expected: list[tuple[str, object]]
) -> None:
    assert resizing({"size": 224}, model_type) == expected


def test_mobilevit_gets_blue_first_and_no_normalisation() -> None:
    config = {
        "feature_extractor_type": "MobileViTFeatureExtractor", "size": 288, "crop_size": 256,
        "do_center_crop": True, "do_flip_channel_order": True, "do_resize": True, "resample": 2,
    }  # fmt: skip
    assert preprocessing(config) == (
        ("resize_short", {"size": 288, "filter": "bilinear"}),
        ("center_crop", {"size": [256, 256]}),
        ("to_float", {"scale": 1 / 255}),
        ("bgr", {}),
        ("layout", {"order": "NCHW"}),
    )


@pytest.mark.parametrize(("resample", "name"), [(0, "nearest"), (1, "lanczos"), (3, "bicubic")])
def test_a_filter_is_the_one_of_its_number(resample: int, name: str) -> None:
    config = {"image_processor_type": "ViTImageProcessor", "size": 224, "resample": resample}
    steps = preprocessing({**NORMAL, **config})
    assert steps is not None
    assert steps[0] == ("resize", {"size": [224, 224], "filter": name})


VIT: dict[str, object] = {"image_processor_type": "ViTImageProcessor", "size": 224, **NORMAL}
CLIP: dict[str, object] = {"image_processor_type": "CLIPImageProcessor", "size": 224, **NORMAL}


@pytest.mark.parametrize(
    "config",
    [
        {**VIT, "image_processor_type": "DonutImageProcessor"},
        {**VIT, "image_processor_type": "ViTProcessor"},
        {**VIT, "image_processor_type": ["ViTImageProcessor"]},
        {k: v for k, v in VIT.items() if k != "image_processor_type"},
        {**VIT, "size": {"longest_edge": 224}},
        {**VIT, "size": {"shortest_edge": 224, "longest_edge": 333}},
        {**VIT, "size": {"shortest_edge": 224}},
        {**VIT, "size": 10**9},
        {**VIT, "size": True},
        {k: v for k, v in VIT.items() if k != "size"},
        {**VIT, "do_pad": True},
        {**VIT, "do_center_crop": True, "crop_size": 224},
        {**VIT, "do_thumbnail": True},
        {**VIT, "size_divisor": 32},
        {**VIT, "auto_map": {"AutoImageProcessor": "code.py"}},
        {**VIT, "resample": 4},
        {**VIT, "resample": "bicubic"},
        {**VIT, "do_resize": False},
        {**VIT, "do_normalize": "yes"},
        {**VIT, "image_mean": [0.5]},
        {**VIT, "image_std": [0.5, 0, 0.5]},
        {**VIT, "image_std": [0.5, float("nan"), 0.5]},
        {**VIT, "rescale_factor": 0},
        {**CLIP, "crop_size": 256},  # transformers would pad
        CLIP,  # of which size the crop is, is not said
        {"image_processor_type": "ConvNextImageProcessor", "size": 224, "crop_pct": 0, **NORMAL},
        {"image_processor_type": "ConvNextImageProcessor", "size": {"height": 9, "width": 9},
         **NORMAL},
        [], None, "config", 5,
    ],
)  # fmt: skip
def test_what_is_not_understood_whole_is_not_stated(config: object) -> None:
    assert preprocessing(config) is None
