"""Which of a repository's ONNX files are the model itself, and which a copy or a part of it.

Exporters put several files of one model side by side, told apart by a word in the name or in the
folder's: model.onnx, model_fp16.onnx, int8/model.onnx, cpu-int4-rtn-block-32/model.onnx. A file
without such a word is the model at full precision. What a repository states is said of its model:
not of an encoder or a tokenizer beside it, nor of each of several models.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

_WORD = re.compile(
    r"(?:mx|nv)?fp(?:4|8|16|32)|bf16|float(?:16|32)|q\d(?:f16)?|u?int(?:4|8|16)|qu?int8|bnb4|nf4"
    r"|quanti[sz]ed|quant|qdq|awq|gptq|w\d+a\d+|\dbits?|optimi[sz]ed",
    re.IGNORECASE,
)
_LEVEL = re.compile(r"O[1-4]")  # of Optimum's optimisation; in lower case a common word
_MORE = re.compile(
    r"\d{1,3}|[kms]|dynamic|static|avx\d*|avx512|vnni|arm64|rtn|block|acc|level|group|a?sym|per"
    r"|channel|tensor|qoperator|mixed",
    re.IGNORECASE,
)
"""What says more of the word before it: qint8_avx512_vnni, q4_0, int4-rtn-block-32."""
_ANYWHERE = {
    "", "onnx", "model", "models", "cpu", "cuda", "gpu", "and", "mobile", "directml", "dml", "web",
    "webgpu",
}  # fmt: skip
"""Words of folders that say where a model runs, not which it is."""
_PART = re.compile(
    r"(?:.*[-_./])?(?:(?:en|de)coder|(?:de)?tokenizer|embed|vae|unet|(?:pre|post)process(?:or|ing)?"
    r"|joiner|prefill|vocoder|(?:text|vision|audio|speech)_(?:model|encoder)"
    r"|(?:text|visual)_projection)(?:[-_./].*)?"
)
_FULL = {None: 0, "fp32": 1, "float32": 1}


@dataclass(frozen=True, slots=True)
class Role:
    """What a file is of its repository. variant : the words that tell it from others of the same
    model, in lower case; None: none. whole : it is the repository's model, maybe in a variant.
    plain : it alone is the whole model at full precision."""

    variant: str | None
    whole: bool
    plain: bool


def roles(repository: str, paths: Sequence[PurePosixPath]) -> list[Role]:
    """The role of each ONNX file of a repository.

    >>> paths = ["model.onnx", "onnx/model_q4f16.onnx", "int8/model.onnx", "tokenizer.onnx"]
    >>> [(r.variant, r.whole) for r in roles("owner/name", [PurePosixPath(p) for p in paths])]
    [(None, True), ('q4f16', True), ('int8', True), (None, False)]
    """
    read = [_read(path) for path in paths]
    model = _model(repository, {base for base, _ in read})
    wholes = [variant for base, variant in read if base == model and variant in _FULL]
    best = min(wholes, key=_FULL.__getitem__, default=None)
    alone = wholes.count(best) == 1
    return [
        Role(variant, base == model, alone and base == model and variant == best)
        for base, variant in read
    ]


def is_variant(variant: str | None, asked: str) -> bool:
    """Whether a file of this variant is meant by a word, whatever the file's says more.

    >>> is_variant("qint8_avx512", "qint8"), is_variant("q4f16", "q4"), is_variant(None, "q4")
    (True, False, False)
    """
    word = asked.lower()
    return variant is not None and re.match(rf"{re.escape(word)}(?:[-_.]|$)", variant) is not None


def _model(repository: str, bases: set[str]) -> str | None:
    """The base that is the repository's model; None where none or several may be."""
    wholes = {base for base in bases if not _PART.fullmatch(base)}
    if len(wholes) == 1:
        return wholes.pop()
    own = repository.rpartition("/")[2].lower()
    return next((name for name in ("model", own) if name in wholes), None)


def _read(path: PurePosixPath) -> tuple[str, str | None]:
    """What is left of a path without words for a variant, and these."""
    stem, variant = _split(path.stem)
    folders = []
    for part in reversed(path.parent.parts):
        base, found = _split(part)
        variant = variant or found
        if not _ANYWHERE.issuperset(re.split(r"[-_.]", base)):
            folders.append(base)
    return "/".join([*reversed(folders), stem or "model"]), variant


def _split(name: str) -> tuple[str, str | None]:
    """A name in lower case without its words for a variant, and these; the first run of them."""
    words = re.split(r"([-_.])", name)  # words at even places, what is between them at odd ones
    for start in range(0, len(words), 2):
        if not (_WORD.fullmatch(words[start]) or _LEVEL.fullmatch(words[start])):
            continue
        end = start + 1
        while start > 0 and end + 1 < len(words) and _says_more(words[end + 1]):
            end += 2
        rest = [*words[: max(0, start - 1)], *words[end if start else end + 1 :]]
        return "".join(rest).lower(), "".join(words[start:end]).lower()
    return name.lower(), None


def _says_more(word: str) -> bool:
    return bool(_MORE.fullmatch(word) or _WORD.fullmatch(word) or _LEVEL.fullmatch(word))
