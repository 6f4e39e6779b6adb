"""What is asked of a converter and what it answers; plain values that cross into a sandbox."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

TRUST = "if you trust where it is from: USING trust = yes"
"""The hint of every refusal that trust would lift, and of no other."""


@dataclass(frozen=True, slots=True)
class ConversionRequest:
    """What a converter reads. source : a file or folder, None where `options` say all.

    folder : empty, its own; the ONNX file and its external data go there and nowhere else.
    options : of Artifact.conversion; what the converter does not know it refuses.
    """

    source: Path | None
    folder: Path
    options: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class ConvertedModel:
    """An ONNX file that was found to answer as the original does.

    path : in the request's folder. producer : what wrote it, 'torch 2.13.0'. difference : largest
    one of an output element, relative to it and its channel's scale (comparing.py), over `samples`
    seeded random inputs. note : what a reader of the record should know besides.
    """

    path: Path
    producer: str
    difference: float
    samples: int
    note: str | None = None

    def described(self, words: str) -> str:
        """What is said in a record's note of where the file is from. words : the original."""
        said = (
            f"converted from {words}; on {self.samples} random inputs its answers differ from the "
            f"original's by at most {self.difference:.2g} (relative)"
        )
        return f"{said}; {self.note}" if self.note else said
