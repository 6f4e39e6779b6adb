"""One name for each dataset that sources call differently, so that their results compare."""

from __future__ import annotations

import re

_NAMES = {
    "imagenet1k": "imagenet",
    "ilsvrcimagenet1k": "imagenet",
    "ilsvrc2012": "imagenet",
    "imagenet2012": "imagenet",
    "timmimagenet1kwds": "imagenet",
    "imagenetreal": "imagenet-real",
    "imagenet1kreal": "imagenet-real",
    "cifar10": "cifar10",
    "uoftcscifar10": "cifar10",
    "cifar100": "cifar100",
    "uoftcscifar100": "cifar100",
    "mnist": "mnist",
    "ylecunmnist": "mnist",
    "fashionmnist": "fashion-mnist",
    "zalandodatasetsfashionmnist": "fashion-mnist",
    "kinetics400": "kinetics-400",
}


def dataset_name(stated: str) -> str:
    """The name that results on this dataset have here, as stated where it is not known to us.

    >>> dataset_name("ImageNet-1K"), dataset_name("ILSVRC/imagenet-1k"), dataset_name("beans")
    ('imagenet', 'imagenet', 'beans')
    """
    return _NAMES.get(re.sub(r"[^a-z0-9]", "", stated.lower()), stated)
