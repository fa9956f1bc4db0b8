"""``labels.json``, the stamp of a directory of labels: what they were made of, and the digests of all its files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, final

from eqssl_speech.data.manifest import Manifest
from eqssl_speech.error import InputError
from eqssl_speech.labels.files import save
from eqssl_speech.labels.settings import LabelSettings, settings_from_json, settings_to_json

STAMP_FILE: Final = "labels.json"

_VERSION: Final = 1

_NEVER: Final = "it is written by `eqssl labels` and not meant to be changed"


@final
@dataclass(frozen=True)
class CodebookStamp:
    """A codebook, and which labels are its own."""

    digest: str
    """SHA-256 of what it says; see :attr:`eqssl_speech.labels.codebook.Codebook.digest`."""

    num_codes: int

    first_label: int
    """The label of its first code."""


@final
@dataclass(frozen=True)
class SplitStamp:
    """The labels of one split of one source."""

    manifest: str
    """The digest of its manifest; see :func:`digest_manifest`."""

    num_utterances: int
    """The lines of both files."""

    codebook: str = ""
    """The digest of its codebook."""

    labels: str = ""
    """The SHA-256 of the label file."""

    num_labels: int = 0
    """The labels in it."""

    num_left_out: int = 0
    """The utterances that could not be read, whose lines are empty."""


@final
@dataclass(frozen=True)
class LabelStamp:
    """All of it."""

    settings: LabelSettings

    splits: Mapping[str, Mapping[str, SplitStamp]]
    """By source and split."""

    codebooks: Mapping[str, CodebookStamp] = field(default_factory=dict)
    """By source; under ``""`` if all have the same."""

    is_finished: bool = False
    """Whether all labels are there; otherwise only what is asked for is known."""

    @property
    def num_codes(self) -> int:
        """How many different labels there are."""
        return sum(codebook.num_codes for codebook in self.codebooks.values())

    def codebook_of(self, source_name: str) -> CodebookStamp | None:
        """Return the codebook of a source, if there is one."""
        return self.codebooks.get(source_name if self.settings.per_source else "")


def digest_manifest(manifest: Manifest) -> str:
    """Return a digest of the utterances: paths and lengths, but not the audio root, so that a corpus may move."""
    digest = hashlib.sha256()

    for entry in manifest.entries:
        digest.update(f"{entry}\t{entry.num_samples}\n".encode())

    return digest.hexdigest()


def write_stamp(out: Path, stamp: LabelStamp) -> None:
    """Write ``labels.json`` in one piece.

    :raises InputError: If it cannot be written.
    """
    features = stamp.settings.features

    content = {
        "version": _VERSION,
        "finished": stamp.is_finished,
        "frame_rate": features.frame_rate,
        "settings": settings_to_json(stamp.settings),
        "codebooks": {name: asdict(c) for name, c in stamp.codebooks.items()},
        "sources": {
            source: {split: asdict(s) for split, s in splits.items()}
            for source, splits in stamp.splits.items()
        },
    }

    save(out / STAMP_FILE, (json.dumps(content, indent=2) + "\n").encode())


def read_stamp(out: Path) -> LabelStamp | None:
    """Read ``labels.json``.

    :returns: What it says, or ``None`` if there is none.
    :raises InputError: If it is damaged, of another version, or contradicts itself.
    """
    file = out / STAMP_FILE

    try:
        content = json.loads(file.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as ex:
        raise InputError(
            f"{file}: cannot be read ({ex.strerror}); correct its permissions."
        ) from None
    except ValueError:
        raise _damaged(file) from None

    if isinstance(content, dict) and content.get("version", _VERSION) != _VERSION:
        raise InputError(
            f"{file}: is of another version of eqssl_speech ({content['version']}, not {_VERSION}); make the labels "
            "anew into another directory with `eqssl labels`."
        )

    try:
        stamp = _parse(content)
        frame_rate = float(content["frame_rate"])
    except (KeyError, TypeError, ValueError, AttributeError):
        raise _damaged(file) from None

    expected = stamp.settings.features.frame_rate
    if frame_rate != expected:
        raise InputError(
            f"{file}: says {frame_rate:g} labels a second, but {stamp.settings.features.hop} samples of "
            f"{stamp.settings.features.sample_rate} Hz between them, which are {expected:g}; {_NEVER}, so make the "
            "labels anew with `eqssl labels`."
        )

    return stamp


def _parse(content: Mapping[str, Any]) -> LabelStamp:
    return LabelStamp(
        settings_from_json(content["settings"]),
        {
            source: {split: SplitStamp(**values) for split, values in splits.items()}
            for source, splits in content["sources"].items()
        },
        {name: CodebookStamp(**values) for name, values in content["codebooks"].items()},
        bool(content["finished"]),
    )


def _damaged(file: Path) -> InputError:
    return InputError(
        f"{file}: is damaged; {_NEVER}: remove the directory and make the labels anew with `eqssl labels`."
    )
