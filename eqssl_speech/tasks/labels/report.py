"""``quality.json``: how good labels are, for each source and over all."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, final

from eqssl_speech.data.manifest import FIRST_ENTRY_LINE
from eqssl_speech.error import InputError
from eqssl_speech.labels.files import save
from eqssl_speech.labels.quality import LabelMeasures, LabelTally, PhoneMeasures
from eqssl_speech.labels.stamp import LabelStamp
from eqssl_speech.tasks.labels.recordings import LabelSplit, LeftOut

REPORT_FILE: Final = "quality.json"


@final
@dataclass(frozen=True)
class LeftOutLine:
    """An utterance without labels."""

    source: str
    split: str

    line: int
    """Of the manifest, from 1."""

    path: str
    """As the manifest has it."""

    reason: str


@final
@dataclass(frozen=True)
class LabelReport:
    """How good labels are."""

    features: str
    """What was clustered, in words."""

    frame_rate: float
    """Labels per second."""

    sources: Mapping[str, LabelMeasures]
    """Of all splits of a source together, as the measures of phones need many frames."""

    splits: Mapping[str, Mapping[str, LabelMeasures]]
    """By source and split."""

    all: LabelMeasures
    """Of all sources together."""

    left_out: tuple[LeftOutLine, ...]


def make_report(
    stamp: LabelStamp,
    tallies: Mapping[str, Mapping[str, LabelTally]],
    left_out: Sequence[tuple[LabelSplit, LeftOut]],
) -> LabelReport:
    """Measure what was counted.

    :param stamp: What the labels are.
    :param tallies: By source and split.
    :param left_out: The utterances without labels.
    """
    features = stamp.settings.features
    everything = LabelTally(stamp.num_codes, features)
    sources, splits = {}, {}

    for name, of_splits in tallies.items():
        codebook = stamp.codebook_of(name)
        assert codebook is not None

        together = LabelTally(stamp.num_codes, features)
        for tally in of_splits.values():
            together.add(tally)

        everything.add(together)
        sources[name] = together.measure(codebook.num_codes)
        splits[name] = {split: t.measure(codebook.num_codes) for split, t in of_splits.items()}

    lines = (
        LeftOutLine(
            split.source.name,
            split.name,
            left.entry_nr + FIRST_ENTRY_LINE,
            str(split.manifest.entries[left.entry_nr]),
            left.reason,
        )
        for split, left in left_out
    )

    return LabelReport(
        features.describe(),
        features.frame_rate,
        sources,
        splits,
        everything.measure(),
        tuple(lines),
    )


def write_report(report: LabelReport, out: Path) -> None:
    """Write ``quality.json`` in one piece.

    :raises InputError: If it cannot be written.
    """
    save(out / REPORT_FILE, (json.dumps(asdict(report), indent=2) + "\n").encode())


def read_report(out: Path) -> LabelReport:
    """Read ``quality.json``.

    :raises InputError: If it is missing or damaged.
    """
    file = out / REPORT_FILE

    try:
        content = json.loads(file.read_bytes())

        return LabelReport(
            content["features"],
            content["frame_rate"],
            {name: _parse(m) for name, m in content["sources"].items()},
            {
                name: {split: _parse(m) for split, m in splits.items()}
                for name, splits in content["splits"].items()
            },
            _parse(content["all"]),
            tuple(LeftOutLine(**values) for values in content["left_out"]),
        )
    except (OSError, KeyError, TypeError, ValueError, AttributeError):
        raise InputError(
            f"{file}: is missing or damaged; the labels are there, and `eqssl labels` into another directory writes "
            "it again."
        ) from None


def _parse(content: Mapping[str, Any]) -> LabelMeasures:
    phones = content["phones"]

    return LabelMeasures(
        **{**content, "phones": None if phones is None else PhoneMeasures(**phones)}
    )
