"""Codebooks: the centroids of clusters, which features they are of, and which of them is nearest."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Final, final

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_safetensors
from torch import Tensor

from eqssl_speech.error import InputError
from eqssl_speech.labels.files import save
from eqssl_speech.labels.settings import FeatureStamp

_TENSOR: Final = "centroids"

_STAMP: Final = "eqssl_labels"

_NUM_ROWS: Final = 2048
"""Frames that are compared with all centroids at once, which bounds the memory."""

_TIE: Final = 1e-12
"""Distances that differ by less, relative to their terms, are alike: rounding must not decide between equals."""


@final
@dataclass(frozen=True, eq=False)
class Codebook:
    """The centroids of the clusters of features."""

    centroids: npt.NDArray[np.float32]
    """*Shape:* ``(C, D)``."""

    features: FeatureStamp
    """What they are centroids of."""

    @property
    def num_codes(self) -> int:
        """The number of clusters."""
        return len(self.centroids)

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of the features' stamp and the centroids."""
        digest = hashlib.sha256(json.dumps(asdict(self.features)).encode())
        digest.update(str(self.centroids.shape).encode())
        digest.update(np.ascontiguousarray(self.centroids, dtype="<f4").tobytes())

        return digest.hexdigest()

    def write(self, file: Path) -> None:
        """Write it in one piece, with its stamp.

        :raises InputError: If it cannot be written.
        """
        # Under one key, as those of several would come in any order.
        stamp = json.dumps({"features": asdict(self.features), "digest": self.digest})

        save(file, to_safetensors({_TENSOR: self.centroids}, {_STAMP: stamp}))


def codebook_file(out: Path, group: str) -> Path:
    """Return the file of a codebook.

    :param out: The directory of the labels.
    :param group: The source that it is of; ``""`` if it is of all.
    """
    return out / (f"codebook-{group}.safetensors" if group else "codebook.safetensors")


def read_codebook(file: Path) -> Codebook:
    """Read a codebook.

    :raises InputError: If it is missing, damaged, or not as it was written.
    """
    try:
        with safe_open(file, "numpy") as tensors:
            stamp = json.loads((tensors.metadata() or {})[_STAMP])
            codebook = Codebook(tensors.get_tensor(_TENSOR), FeatureStamp(**stamp["features"]))
            digest = stamp["digest"]
    except FileNotFoundError:
        raise InputError(
            f"{file}: there is no such codebook; copy the directory of the labels as a whole, or make them with "
            "`eqssl labels`."
        ) from None
    except OSError as ex:
        raise InputError(
            f"{file}: cannot be read ({ex.strerror or ex}); correct its permissions."
        ) from None
    except (SafetensorError, KeyError, TypeError, ValueError):
        raise _altered(file) from None

    is_table = codebook.centroids.ndim == 2 and codebook.centroids.dtype == np.float32
    if not is_table or codebook.digest != digest:
        raise _altered(file)

    return codebook


@final
class Quantizer:
    """Finds the nearest centroid of each frame."""

    def __init__(self, codebook: Codebook, device: torch.device | str = "cpu") -> None:
        """
        :param codebook: The centroids.
        :param device: Where frames come from.
        """
        centroids = torch.from_numpy(codebook.centroids).to(device, torch.float64)

        # (C, D) -> (D, C)
        self._transposed = centroids.T.contiguous()
        self._norms = centroids.square().sum(1)

    def assign(self, frames: Tensor) -> tuple[Tensor, float]:
        """Find the nearest centroids, in float64 so that they do not hang on how many frames come at once.

        :param frames: *Shape:* ``(T, D)``.
        :returns: The index of the nearest centroid of each frame, the lowest of several as near, int64 on the CPU
            (*Shape:* ``(T,)``); and the squared distances, added up.
        """
        parts = [self._assign(rows) for rows in frames.split(_NUM_ROWS)]

        return torch.cat([labels for labels, _ in parts]).cpu(), sum(x for _, x in parts)

    def _assign(self, frames: Tensor) -> tuple[Tensor, float]:
        frames = frames.to(torch.float64)

        norms = frames.square().sum(1, keepdim=True)

        # (T, D) x (D, C) -> (T, C)
        distances = torch.addmm(self._norms, frames, self._transposed, alpha=-2.0)

        nearest = distances.min(1, keepdim=True).values

        is_nearest = distances <= nearest + _TIE * (norms + self._norms)

        # The first of the greatest.
        labels = is_nearest.to(torch.uint8).argmax(1)

        return labels, float((nearest + norms).clamp(min=0.0).sum())


def _altered(file: Path) -> InputError:
    return InputError(
        f"{file}: is no codebook, or is damaged; copy it again, or make the labels anew with `eqssl labels`."
    )
