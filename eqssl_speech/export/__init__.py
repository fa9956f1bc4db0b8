"""Models in the formats of other programs, and proof that they compute the same there."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

Target: TypeAlias = Literal["hf", "torchaudio", "onnx", "fairseq2"]
"""A format."""

TARGETS: Final[tuple[Target, ...]] = ("hf", "torchaudio", "onnx", "fairseq2")
