"""Everything that is settled about the data before anything is written or trained."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from eqssl_speech.data.check import SourceReport
from eqssl_speech.data.corpus import Corpus, DataSource, load_corpus, select_sources
from eqssl_speech.data.loading import list_utterances
from eqssl_speech.data.manifest import Manifest, read_transcripts
from eqssl_speech.data.transcribed import TranscribedUtterances
from eqssl_speech.error import InputError
from eqssl_speech.tasks.finetune.batches import batch_seconds
from eqssl_speech.tasks.finetune.config import FinetuneConfig, TranscribedSourcesSection
from eqssl_speech.tasks.recordings import check_recordings
from eqssl_speech.text.frames import min_frames, num_frames
from eqssl_speech.text.normalization import TextRefusedError
from eqssl_speech.text.tokenizer import CtcTokenizer

_SUBSET_SEED: Final = 0

LeftOutReason = Literal["refused text", "empty text", "too long", "more labels than frames"]
"""Why an utterance whose recording is good takes no part."""


@dataclass(frozen=True)
class LeftOut:
    """An utterance that takes no part in a run, although its recording is good."""

    reason: LeftOutReason
    message: str


@dataclass(frozen=True)
class TranscribedSource:
    """One source of a run."""

    source: DataSource
    train: TranscribedUtterances
    valid: TranscribedUtterances
    reports: tuple[SourceReport, SourceReport]
    """What was found in the recordings of both splits."""

    left_out: tuple[LeftOut, ...]
    """The utterances of both splits whose text cannot be used."""

    num_unknown: int
    """The labels of the training text that the vocabulary lacks."""


@dataclass(frozen=True)
class TranscribedSources:
    """The sources of a run, whose files and texts have been looked at."""

    corpus: Corpus
    sources: tuple[TranscribedSource, ...]


def check_transcribed_sources(
    config: FinetuneConfig, tokenizer: CtcTokenizer, num_ranks: int
) -> TranscribedSources:
    """Look at the header of every recording, and at the text, of the configured sources.

    :param config: The configuration.
    :param tokenizer: Makes labels of the text.
    :param num_ranks: The ranks that share the batches of an update.
    :raises InputError: If a source cannot be trained on.
    """
    section = config.dataset

    if section.corpus is None:
        raise InputError(
            "`dataset.corpus` is not set: add `--config dataset.corpus=DIR`, where DIR holds one folder of manifests "
            "and `.wrd` transcripts per source (`eqssl prepare` makes one)."
        )

    corpus = select_sources(load_corpus(section.corpus), section.sources)

    _check_languages(corpus, tokenizer)

    num_sources = config.dataset.sources_per_step or len(corpus.sources)
    max_audio_s = min(section.max_audio_s, batch_seconds(config, num_sources, num_ranks))

    sources = tuple(
        _check_source(source, section, tokenizer, max_audio_s, config.validation.max_num_utterances)
        for source in corpus.sources
    )

    return TranscribedSources(corpus, sources)


def _check_languages(corpus: Corpus, tokenizer: CtcTokenizer) -> None:
    for source in corpus.sources:
        if not tokenizer.knows(source.language):
            known = ", ".join(f"`{language}`" for language in tokenizer.languages)

            raise InputError(
                f"The tokenizer does not know the language `{source.language}` of the source `{source.name}`; it knows "
                f"{known}: name the sources of these in `dataset.sources`, or make a tokenizer with `eqssl tokenizer` "
                "that knows it."
            )


def _check_source(
    source: DataSource,
    section: TranscribedSourcesSection,
    tokenizer: CtcTokenizer,
    max_audio_s: float,
    max_num_valid: int | None,
) -> TranscribedSource:
    train, train_report, left_out, num_unknown = read_transcribed(
        source, section.train_split, section, tokenizer, max_audio_s=max_audio_s
    )

    valid, valid_report, valid_left_out, _ = read_transcribed(
        source, section.valid_split, section, tokenizer, max_audio_s=None
    )

    return TranscribedSource(
        source,
        _take_minutes(train, section),
        valid if max_num_valid is None else valid.take(_shuffled(valid)[:max_num_valid]),
        (train_report, valid_report),
        (*left_out, *valid_left_out),
        num_unknown,
    )


def read_transcribed(
    source: DataSource,
    split: str,
    section: TranscribedSourcesSection,
    tokenizer: CtcTokenizer,
    *,
    max_audio_s: float | None,
) -> tuple[TranscribedUtterances, SourceReport, list[LeftOut], int]:
    """Look at the recordings and the text of one split of one source.

    :param source: The data source.
    :param split: The split.
    :param section: What a recording must be like.
    :param tokenizer: Makes labels of the text.
    :param max_audio_s: Longer recordings are left out.
    :returns: The usable utterances, what was found in the recordings, the utterances left out for their text or
        length, and the number of labels that the vocabulary lacks.
    :raises InputError: If nothing can be used.
    """
    manifest, report = check_recordings(source, split, section)

    transcripts = read_transcripts(manifest.file.with_suffix(".wrd"), manifest)

    reader = _TextReader(
        source, manifest, tokenizer, int(section.max_audio_s * section.sample_rate)
    )

    max_num_samples = None if max_audio_s is None else int(max_audio_s * section.sample_rate)

    kept = [
        number
        for number, (index, num_samples) in enumerate(zip(report.good, report.num_samples))
        if reader.read(index, transcripts[index], num_samples, max_num_samples)
    ]

    if not kept:
        reasons = sorted({left_out.reason for left_out in reader.left_out})

        raise InputError(
            f"{manifest.file}: no utterance of the source `{source.name}` can be used ({', '.join(reasons)}), such as "
            f"{reader.left_out[0].message.removesuffix('.')}; run `eqssl check --ctc` on the corpus."
        )

    utterances = list_utterances(
        source, manifest, [report.good[n] for n in kept], [report.num_samples[n] for n in kept]
    )

    transcribed = TranscribedUtterances(
        utterances, tuple(reader.texts), tuple(reader.labels), source.language
    )

    return transcribed, report, reader.left_out, reader.num_unknown


class _TextReader:
    """Makes labels of the transcripts of one split, and keeps what cannot be used."""

    def __init__(
        self,
        source: DataSource,
        manifest: Manifest,
        tokenizer: CtcTokenizer,
        most_num_samples: int,
    ) -> None:
        self._source = source
        self._manifest = manifest
        self._tokenizer = tokenizer
        # Of `dataset.max_audio_s`; a batch may hold less.
        self._most_num_samples = most_num_samples
        self.texts: list[str] = []
        self.labels: list[tuple[int, ...]] = []
        self.left_out: list[LeftOut] = []
        self.num_unknown = 0

    def read(
        self, index: int, transcript: str, num_samples: int, max_num_samples: int | None
    ) -> bool:
        """Take the text of an entry; return whether it can be used."""
        try:
            text = self._tokenizer.normalize(transcript, self._source.language)
        except TextRefusedError as ex:
            return self._leave_out(index, "refused text", str(ex))

        encoded = self._tokenizer.encode(text)
        labels = tuple(label for label in encoded if label != self._tokenizer.unk_index)

        # Of text that the vocabulary lacks as a whole nothing is learnt; but what is only measured counts it, as
        # `eqssl evaluate` does.
        is_measured = max_num_samples is None
        if not text or not (labels or is_measured):
            return self._leave_out(index, "empty text", f"nothing is left of {transcript!r}")

        if max_num_samples is not None and num_samples > max_num_samples:
            keys = "`dataset.audio_seconds_per_update`"
            if num_samples > self._most_num_samples:
                keys = f"`dataset.max_audio_s`, and {keys} with it,"

            return self._leave_out(
                index,
                "too long",
                f"{num_samples} samples, of which a batch holds {max_num_samples}; raise {keys} to use it",
            )

        # Cannot be aligned, and would be a loss of infinity.
        if max_num_samples is not None and min_frames(labels) > num_frames(num_samples):
            return self._leave_out(
                index,
                "more labels than frames",
                f"{min_frames(labels)} frames are needed for its {len(labels)} labels, but it has "
                f"{num_frames(num_samples)}; see whether the text is that of another recording",
            )

        self.texts.append(text)
        self.labels.append(labels)
        self.num_unknown += len(encoded) - len(labels)

        return True

    def _leave_out(self, index: int, reason: LeftOutReason, why: str) -> bool:
        where = self._manifest.describe_line(index)

        self.left_out.append(
            LeftOut(reason, f"{where}: {self._manifest.entries[index]}: {reason}: {why}.")
        )

        return False


def _take_minutes(
    train: TranscribedUtterances, section: TranscribedSourcesSection
) -> TranscribedUtterances:
    if section.max_minutes_per_source is None:
        return train

    budget = section.max_minutes_per_source * 60 * section.sample_rate

    order = _shuffled(train)
    num_samples = np.cumsum(train.utterances.lengths[order])
    num_taken = max(1, int(np.searchsorted(num_samples, budget, side="right")))

    return train.take(sorted(order[:num_taken]))


def _shuffled(utterances: TranscribedUtterances) -> list[int]:
    # Not by the run's seed, and not by which utterances are left out for what reason: runs that are compared are taught
    # and measured by the same utterances.
    key = zlib.crc32(utterances.source_name.encode())
    (manifest, _), *_ = utterances.utterances.items

    rank = np.random.default_rng([_SUBSET_SEED, key]).permutation(len(manifest.entries))

    return sorted(range(len(utterances.texts)), key=lambda i: rank[utterances.utterances.items[i][1]])  # fmt: skip
