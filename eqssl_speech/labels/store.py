"""The labels of a corpus for training: checked as a whole when they are opened, and read a line at a time."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, final

import numpy as np
import numpy.typing as npt

from eqssl_speech.data.manifest import Manifest
from eqssl_speech.error import InputError
from eqssl_speech.labels.codebook import codebook_file, read_codebook
from eqssl_speech.labels.files import km_file
from eqssl_speech.labels.km import KmFile, KmIndex, index_file
from eqssl_speech.labels.settings import FeatureStamp, count_frames
from eqssl_speech.labels.stamp import STAMP_FILE, LabelStamp, digest_manifest, read_stamp
from eqssl_speech.text.frames import FRAME_STRIDE

LabelledSplit: TypeAlias = tuple[str, str, Manifest]
"""Source, split and manifest."""


@final
@dataclass(frozen=True)
class _LabelSet:
    """What one directory holds."""

    directory: Path
    stamp: LabelStamp
    files: Mapping[Path, KmFile]
    """By the file of the manifest."""

    @property
    def hop(self) -> int:
        """Samples from one label to the next."""
        return self.stamp.settings.features.hop


@final
class LabelStore:
    """One label, or several, for each frame of a model: of each utterance of some splits of some sources."""

    def __init__(self, sets: Sequence[_LabelSet], frame_stride: int) -> None:
        """
        :param sets: The label sets, which fit each other.
        :param frame_stride: Samples from one frame of the model to the next.
        """
        self._sets = tuple(sets)
        self._frame_stride = frame_stride

    @staticmethod
    def open(
        directories: Sequence[Path],
        manifests: Sequence[LabelledSplit],
        *,
        sample_rate: int,
        frame_stride: int = FRAME_STRIDE,
    ) -> LabelStore:
        """Check labels against a corpus and a model.

        :param directories: Where `eqssl labels` wrote them; a directory for each label set, at least one.
        :param manifests: Source, split and manifest of everything that is read.
        :param sample_rate: What the model takes, in Hz.
        :param frame_stride: Samples from one of its frames to the next.
        :raises InputError: If a directory holds no finished labels, if its labels are of another corpus, another frame
            rate or another codebook than they should be, if a file was altered or cut off, or if the label sets do not
            fit each other.
        """
        if not directories:
            raise InputError(
                "There is no directory of labels; make one with `eqssl labels` and name it."
            )

        resolved = [directory.resolve() for directory in directories]
        for index, directory in enumerate(directories):
            if resolved[index] in resolved[:index]:
                raise InputError(
                    f"{directory}: is listed twice; list every directory of labels once."
                )

        sets = [_open_set(d, manifests, sample_rate, frame_stride) for d in directories]

        for other in sets[1:]:
            _require_fit(sets[0], other, manifests, frame_stride)

        return LabelStore(sets, frame_stride)

    @property
    def num_codes(self) -> tuple[int, ...]:
        """How many different labels each set has."""
        return tuple(s.stamp.num_codes for s in self._sets)

    @property
    def digest(self) -> str:
        """The SHA-256 of all that was opened: the codebooks, and the labels of each split."""
        digest = hashlib.sha256()

        for label_set in self._sets:
            for codebook in label_set.stamp.codebooks.values():
                digest.update(codebook.digest.encode())

            for file in label_set.files.values():
                digest.update(file.digest.encode())

        return digest.hexdigest()

    @property
    def crop_multiple(self) -> int:
        """Crops must start at a multiple of so many samples: there a frame begins, and a label of each set."""
        return math.lcm(self._frame_stride, *(s.hop for s in self._sets))

    def is_labelled(self, manifest: Manifest, entry_nr: int) -> bool:
        """Say whether an utterance has labels in all sets; one that could not be read has none."""
        return all(s.files[manifest.file].count(entry_nr) > 0 for s in self._sets)

    def read(
        self, manifest: Manifest, entry_nr: int, *, start: int, num_frames: int
    ) -> npt.NDArray[np.int64]:
        """Read the labels of a crop, in any thread.

        :param manifest: The utterance's manifest.
        :param entry_nr: The utterance, as an index into the manifest's entries.
        :param start: The first sample of the crop, at the model's rate.
        :param num_frames: The frames that the model makes of it.
        :returns: The label of frame ``t`` is that which begins at, or last before, sample
            ``start + t * frame_stride``. *Shape:* ``(L, T)``, ``L`` sets.
        :raises InputError: If the crop ends after the labels of the utterance.
        """
        return np.stack(
            [self._read_set(s, manifest, entry_nr, start, num_frames) for s in self._sets]
        )

    def _read_set(
        self, label_set: _LabelSet, manifest: Manifest, entry_nr: int, start: int, num_frames: int
    ) -> npt.NDArray[np.int64]:
        labels = label_set.files[manifest.file].read(entry_nr)

        positions = (start + np.arange(num_frames) * self._frame_stride) // label_set.hop

        if start < 0 or (num_frames > 0 and positions[-1] >= len(labels)):
            raise InputError(
                f"{manifest.describe_line(entry_nr)}: has {len(labels)} labels in {label_set.directory}, of which the "
                f"crop of {num_frames} frames from sample {start} on needs {int(positions[-1]) + 1}; "
                f"{_explain_remaking(label_set.directory)}."
            )

        return labels[positions]


def _explain_remaking(directory: Path) -> str:
    return (
        "make them anew into another directory with `eqssl labels CORPUS OUT` "
        f"(what {directory} was made with is in its {STAMP_FILE})"
    )


def _open_set(
    directory: Path, manifests: Sequence[LabelledSplit], sample_rate: int, frame_stride: int
) -> _LabelSet:
    stamp = read_stamp(directory)

    if stamp is None:
        raise InputError(
            f"{directory}: holds no labels, as there is no {STAMP_FILE}; give a directory that `eqssl labels` wrote."
        )
    if not stamp.is_finished:
        raise InputError(
            f"{directory}: its labels are not finished; run the same `eqssl labels` again, which goes on from where it "
            "stopped."
        )

    _require_rate(directory, stamp.settings.features, sample_rate, frame_stride)
    _require_codebooks(directory, stamp)

    files = {
        m.file: _open_split(directory, stamp, source, split, m) for source, split, m in manifests
    }

    return _LabelSet(directory, stamp, files)


def _require_rate(
    directory: Path, features: FeatureStamp, sample_rate: int, frame_stride: int
) -> None:
    if features.sample_rate != sample_rate:
        raise InputError(
            f"{directory}: its labels are of audio of {features.sample_rate} Hz, but the model takes {sample_rate} Hz; "
            f"set `dataset.sample_rate` to {features.sample_rate}."
        )

    if frame_stride % features.hop != 0:
        raise InputError(
            f"{directory}: has {features.frame_rate:g} labels a second, but the model makes "
            f"{sample_rate / frame_stride:g} frames a second, which do not begin where labels do; make labels of "
            "features whose frame rate is a multiple of the model's with `eqssl labels`."
        )


def _require_codebooks(directory: Path, stamp: LabelStamp) -> None:
    next_label = 0

    for group, codebook in stamp.codebooks.items():
        file = codebook_file(directory, group)
        found = read_codebook(file)

        if found.features != stamp.settings.features:
            raise InputError(
                f"{file}: is a codebook of {found.features.describe()}, but the labels are of "
                f"{stamp.settings.features.describe()}; put back the file that `eqssl labels` wrote, or "
                f"{_explain_remaking(directory)}."
            )
        if (found.digest, found.num_codes) != (codebook.digest, codebook.num_codes):
            raise InputError(
                f"{file}: is not the codebook that the labels were made with; put back the file that `eqssl labels` "
                f"wrote, or {_explain_remaking(directory)}."
            )
        if codebook.first_label != next_label:
            raise InputError(
                f"{directory / STAMP_FILE}: the labels of its codebooks overlap or leave gaps; "
                f"{_explain_remaking(directory)}."
            )

        next_label += codebook.num_codes


def _open_split(
    directory: Path, stamp: LabelStamp, source: str, split: str, manifest: Manifest
) -> KmFile:
    split_stamp = stamp.splits.get(source, {}).get(split)

    if split_stamp is None:
        raise InputError(
            f"{directory}: has no labels of the split `{split}` of the source `{source}`; make those of all sources "
            f"and splits at once, into another directory, with `eqssl labels CORPUS OUT --codebook {directory}`."
        )
    if digest_manifest(manifest) != split_stamp.manifest:
        raise InputError(
            f"{directory}: its labels of the split `{split}` of the source `{source}` are of another corpus, as their "
            f"manifest had {split_stamp.num_utterances} utterances that are not those of {manifest.file} "
            f"({len(manifest.entries)}); give the labels of this corpus, or make them with `eqssl labels`."
        )

    codebook = stamp.codebook_of(source)
    if codebook is None or codebook.digest != split_stamp.codebook:
        raise InputError(
            f"{directory}: its labels of the split `{split}` of the source `{source}` are of another codebook "
            f"({split_stamp.codebook[:12]}) than that of its other labels "
            f"({'none' if codebook is None else codebook.digest[:12]}), so that the same label means something else; "
            f"{_explain_remaking(directory)}."
        )

    file = km_file(directory, source, split)
    index = index_file(file)

    if index.digest != split_stamp.labels:
        raise InputError(
            f"{file}: is cut off or altered, as it is not the file that `eqssl labels` wrote; copy it again, or "
            f"{_explain_remaking(directory)}."
        )

    _require_lengths(directory, file, index, stamp, manifest)

    return KmFile(file, index)


def _require_lengths(
    directory: Path, file: Path, index: KmIndex, stamp: LabelStamp, manifest: Manifest
) -> None:
    if len(index.counts) != len(manifest.entries):
        raise InputError(
            f"{file}: has {len(index.counts)} lines, but {manifest.file} has {len(manifest.entries)} utterances; "
            f"{_explain_remaking(directory)}."
        )

    if stamp.settings.resample:
        # Manifests hold samples as stored, and recordings may be stored at any rate.
        return

    features = stamp.settings.features

    for number, (count, entry) in enumerate(zip(index.counts.tolist(), manifest.entries), 1):
        expected = count_frames(entry.num_samples, features)

        if count not in (0, expected):
            raise InputError(
                f"{file}:{number}: has {count} labels, but the {entry.num_samples} samples of `{entry}` have "
                f"{expected} at {features.frame_rate:g} a second; {_explain_remaking(directory)}."
            )


def _require_fit(
    first: _LabelSet, other: _LabelSet, manifests: Sequence[LabelledSplit], frame_stride: int
) -> None:
    """Check that two sets have labels for as many frames of each utterance.

    Both are of the same manifests; but where recordings were resampled, these do not say how long they are.
    """
    for _, _, manifest in manifests:
        for entry_nr in range(len(manifest.entries)):
            counts = [s.files[manifest.file].count(entry_nr) for s in (first, other)]
            if 0 in counts:
                continue

            frames = [
                count_model_frames(count, s.hop, frame_stride)
                for count, s in zip(counts, (first, other))
            ]

            if frames[0] != frames[1]:
                raise InputError(
                    f"{first.directory} and {other.directory}: do not fit each other, as they have labels of "
                    f"{frames[0]} and {frames[1]} frames for {manifest.describe_line(entry_nr)}; make both of the "
                    "corpus as it is now with `eqssl labels`."
                )


def count_model_frames(num_labels: int, hop: int, frame_stride: int) -> int:
    """Return how many frames of a model an utterance has, of which only its labels are known.

    :param num_labels: Its labels, at least one.
    :param hop: Samples from one label to the next; a divisor of the stride.
    :param frame_stride: Samples from one frame of the model to the next.
    """
    return (num_labels - 1) // (frame_stride // hop) + 1
