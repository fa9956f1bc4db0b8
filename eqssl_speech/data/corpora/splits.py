"""Which recording belongs to train, valid or test: a property of its content, fixed for ever."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from typing import Final

import numpy as np
import numpy.typing as npt

SPLITS: Final = ("train", "valid", "test")
"""Every split that a prepared corpus may have."""


def audio_digest(samples: npt.NDArray[np.float32]) -> str:
    """Hash what is heard: the samples as 16-bit integers, so that a copy under another name or header is found.

    :param samples: mono samples in [-1, 1] at the stored rate, *Shape* ``(num_samples,)``.
    """
    return hashlib.sha256(quantize(samples).tobytes()).hexdigest()


def quantize(samples: npt.NDArray[np.float32]) -> npt.NDArray[np.int16]:
    """Round samples in [-1, 1] to 16-bit integers, *Shape* ``(num_samples,)``."""
    quantized: npt.NDArray[np.int16] = np.rint(np.clip(samples, -1.0, 1.0) * 32767.0).astype("<i2")
    return quantized


def content_key(text: str | None, digest: str) -> str:
    """The content by which a recording is assigned to a split.

    Recordings of one text share a key, whoever reads it and in whichever source; without text the audio is the key. As
    exact duplicates are dropped before, neither a text nor a recording is ever on both sides.

    :param text: normalised text, or ``None`` or ``""`` where there is none.
    :param digest: of the audio, see :func:`audio_digest`.
    """
    content = f"text:{text}" if text else f"audio:{digest}"
    return hashlib.sha256(content.encode()).hexdigest()


def assign_split(key: str, valid_share: float = 0.05, test_share: float = 0.05) -> str:
    """Assign a content key to a split.

    :param key: a hexadecimal hash, see :func:`content_key`.
    :param valid_share: share of keys for validation, in [0, 1).
    :param test_share: share of keys for testing, in [0, 1).
    :returns: ``"train"``, ``"valid"`` or ``"test"``.
    """
    point = int(key[:12], 16) / 16**12
    if point < valid_share:
        return "valid"
    return "test" if point < valid_share + test_share else "train"


def split_keys(keys: Iterable[str], valid_share: float, test_share: float) -> dict[str, str]:
    """Assign the keys of one source to splits, so that a wanted split of a small source is not empty.

    :param keys: content keys, see :func:`content_key`; one may occur more than once.
    :param valid_share: share of keys for validation, in [0, 1).
    :param test_share: share of keys for testing, in [0, 1).
    :returns: split by key; as :func:`assign_split`, but where a split would be empty, it gets the key nearest to it.
    """
    ordered = sorted(set(keys))
    splits = {key: assign_split(key, valid_share, test_share) for key in ordered}
    wanted = {"train": True, "valid": valid_share > 0, "test": test_share > 0}
    for split in (s for s in SPLITS if wanted[s]):
        counts = Counter(splits.values())
        # From the largest split, of which something is left; the last keys are those of train.
        donor = max(counts, key=lambda s: (counts[s], s), default=split)
        if counts[split] == 0 and counts[donor] > 1:
            candidates = [key for key in ordered if splits[key] == donor]
            splits[candidates[-1 if split == "train" else 0]] = split
    if splits and "train" not in splits.values():
        splits[ordered[-1]] = "train"
    return splits
