"""What labels are made of: the features, and the settings of their clusters."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, Literal, final

import numpy as np
import numpy.typing as npt

SAMPLE_RATE: Final = 16_000
"""What recordings are brought to, in Hz."""

MFCC_HOP: Final = 160
"""Samples from one frame of MFCCs to the next: 100 frames a second."""

MFCC_DIM: Final = 39
"""Thirteen coefficients, their differences, and the differences of those."""

FEATURE_WINDOW: Final = 400
"""Samples that a frame describes: 25 ms, in MFCCs as in the convolutions of wav2vec 2.0 and HuBERT."""


@final
@dataclass(frozen=True)
class FeatureStamp:
    """Says which features were computed, wherever the model lies now."""

    kind: Literal["mfcc", "layer"]

    hop: int
    """Samples from one frame to the next."""

    dim: int
    """Numbers per frame."""

    sample_rate: int = SAMPLE_RATE
    """In Hz."""

    family: str | None = None
    """The family of the model, if there is one."""

    checkpoint: str | None = None
    """The SHA-256 of the encoder's configuration and tensors."""

    layer: int | None = None
    """The layer, from 1."""

    @property
    def frame_rate(self) -> float:
        """Frames per second."""
        return self.sample_rate / self.hop

    def describe(self) -> str:
        """Name the features in a message."""
        if self.kind == "mfcc":
            return "MFCCs"

        return f"layer {self.layer} of the {self.family} checkpoint {str(self.checkpoint)[:12]}"


MFCC: Final = FeatureStamp("mfcc", MFCC_HOP, MFCC_DIM)
"""The features of HuBERT's first iteration."""


@final
@dataclass(frozen=True, kw_only=True)
class LabelSettings:
    """What the labels of a corpus depend on, besides its recordings."""

    features: FeatureStamp

    num_clusters: int
    """Of each codebook."""

    per_source: bool = False
    """Whether each source has a codebook of its own, with labels of its own."""

    hours: float | None = None
    """Hours of speech that are clustered, of all sources together; ``None`` if the codebook was given."""

    seed: int | None = None
    """Chooses what is clustered and where clusters begin; ``None`` if the codebook was given."""

    given_codebooks: tuple[str, ...] = ()
    """The digests of the codebooks that were given instead of being made."""

    resample: bool = False
    """Whether recordings of another sample rate were taken."""

    downmix: bool = False
    """Whether recordings of several channels were taken."""

    precision: str = "float32"
    """Of the model; ``bfloat16`` on a GPU."""


def count_frames(num_samples: int, stamp: FeatureStamp) -> int:
    """Return how many frames an utterance has.

    :param num_samples: Its length at the features' sample rate.
    :param stamp: The features.
    """
    return max(0, (num_samples - FEATURE_WINDOW) // stamp.hop + 1)


def count_all_frames(
    num_samples: npt.NDArray[np.int64], stamp: FeatureStamp
) -> npt.NDArray[np.int64]:
    """Return how many frames each of many utterances has, as :func:`count_frames` does.

    :param num_samples: Their lengths at the features' sample rate. *Shape:* ``(U,)``.
    :param stamp: The features.
    :returns: *Shape:* ``(U,)``.
    """
    counts: npt.NDArray[np.int64] = (num_samples - FEATURE_WINDOW) // stamp.hop + 1

    return np.maximum(counts, 0, out=counts)


_OPTIONS: Final[Mapping[str, str]] = {
    "features.kind": "`--features`",
    "features.family": "the model of `--checkpoint`",
    "features.checkpoint": "the model of `--checkpoint`",
    "features.layer": "`--layer`",
    "num_clusters": "`--clusters`",
    "per_source": "`--per-source`",
    "given_codebooks": "`--codebook`",
    "hours": "`--hours-for-clustering`",
    "seed": "`--seed`",
    "resample": "`--resample`",
    "downmix": "`--downmix`",
    "precision": "the precision (bfloat16 on a GPU, float32 on the CPU; see `--device`)",
}


def find_difference(theirs: LabelSettings, ours: LabelSettings) -> str | None:
    """Compare the settings of labels that exist with those that are asked for.

    :returns: Names the option and both values; ``None`` if they are alike.
    """
    old, new = _flatten(theirs), _flatten(ours)

    for name, value in old.items():
        if new[name] != value:
            option = _OPTIONS.get(name, f"`{name}`")

            return f"{option} is {_show(value)} there but {_show(new[name])} now"

    return None


def settings_to_json(settings: LabelSettings) -> dict[str, Any]:
    """Return what a stamp holds of the settings."""
    content: dict[str, Any] = json.loads(json.dumps(asdict(settings)))

    return content


def settings_from_json(content: Mapping[str, Any]) -> LabelSettings:
    """Read what :func:`settings_to_json` wrote.

    :raises (KeyError, TypeError, ValueError): If it is something else.
    """
    values = {f.name: content[f.name] for f in fields(LabelSettings)}

    features = FeatureStamp(**values["features"])
    if features.hop <= 0 or features.dim <= 0 or features.sample_rate <= 0:
        raise ValueError("A size is not greater than 0.")

    values["features"] = features
    values["given_codebooks"] = tuple(values["given_codebooks"])

    return LabelSettings(**values)


def _flatten(settings: LabelSettings) -> dict[str, object]:
    content = settings_to_json(settings)

    # First, as the others may follow from them.
    given = content.pop("given_codebooks")
    features = {f"features.{name}": v for name, v in content.pop("features").items()}

    return {**features, "given_codebooks": given, **content}


def _show(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(str(v)[:12] for v in value) or "not given"
    if isinstance(value, bool):
        return "given" if value else "not given"
    if isinstance(value, str):
        return value[:12]

    return "not given" if value is None else str(value)
