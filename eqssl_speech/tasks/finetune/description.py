"""What a run says of its data before the first update."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from fairseq2.logging import log

from eqssl_speech.data.episodes import EpisodePlanner
from eqssl_speech.data.manifest import replace_text
from eqssl_speech.data.transcribed import TranscribedUtterances
from eqssl_speech.report.sources import SourceRow
from eqssl_speech.tasks.finetune.config import FinetuneConfig
from eqssl_speech.tasks.finetune.sources import TranscribedSource, TranscribedSources
from eqssl_speech.text.frames import num_frames

_NUM_NAMED: Final = 5
"""How many utterances that are left out for one reason the log names."""


def list_sources(
    config: FinetuneConfig, sources: TranscribedSources, planner: EpisodePlanner, num_batches: int
) -> list[SourceRow]:
    """Describe the sources of a run and how often it will go through each.

    :param config: The configuration.
    :param sources: The sources.
    :param planner: Plans their batches, which hold less audio than they may: utterances stay whole.
    :param num_batches: The batches of an update, over all ranks.
    :returns: A row per source, in their order.
    """
    num_all_batches = (config.regime.num_steps or 0) * num_batches

    rows = []

    for source, share, num_in_pass in zip(
        sources.sources, planner.shares, planner.batches_per_pass
    ):
        hours = source.train.num_samples / config.dataset.sample_rate / 3600

        rows.append(
            SourceRow(
                name=source.source.name,
                language=source.source.language,
                domain=source.source.domain,
                licence=source.source.licence,
                hours=hours,
                utterances=len(source.train.texts),
                num_bad=sum(r.num_bad for r in source.reports) + len(source.left_out),
                share=share,
                expected_passes=share * num_all_batches / num_in_pass,
            )
        )

    return rows


def measure_labels(train: Sequence[TranscribedUtterances]) -> tuple[float, float]:
    """Measure the training labels.

    :param train: The training utterances of each source.
    :returns: The entropy of the labels in nats, and the labels per frame.
    """
    counts = Counter(label for u in train for labels in u.labels for label in labels)
    num_labels = counts.total()
    num_all_frames = sum(num_frames(int(n)) for u in train for n in u.utterances.lengths)

    return (
        -sum(n / num_labels * math.log(n / num_labels) for n in counts.values()),
        num_labels / max(num_all_frames, 1),
    )


def report_left_out(sources: TranscribedSources, file: Path) -> None:
    """Name what takes no part in a run: the first few of each kind in the log, all in a file.

    :param sources: The sources.
    :param file: Written as lines ``reason<TAB>message``.
    """
    lines = [line for source in sources.sources for line in _warn_of_left_out(source, file)]

    replace_text(file, "".join(f"{line}\n" for line in ["reason\tmessage", *lines]))


def _warn_of_left_out(source: TranscribedSource, file: Path) -> list[str]:
    """Name what a source leaves out, the first few of each kind in the log; return all."""
    by_reason: dict[str, list[str]] = {}

    for report in source.reports:
        for bad in report.bad:
            by_reason.setdefault(bad.reason, []).append(bad.message)

    for left_out in source.left_out:
        by_reason.setdefault(left_out.reason, []).append(left_out.message)

    for reason, messages in by_reason.items():
        for message in messages[:_NUM_NAMED]:
            log.warning("Left out ({}): {}", reason, message)

        if len(messages) > _NUM_NAMED:
            num_more = len(messages) - _NUM_NAMED

            log.warning(
                "Left out ({}): {} more of the source {}; all are in {}.",
                reason,
                num_more,
                source.source.name,
                file,
            )

    if source.num_unknown > 0:
        log.warning(
            "Source {}: {} label(s) of its training text are not in the vocabulary and are left out of the targets; "
            "`eqssl tokenizer` and `eqssl check --ctc` name them.",
            source.source.name,
            source.num_unknown,
        )

    return [f"{reason}\t{message}" for reason, found in by_reason.items() for message in found]
