"""The text beside a corpus's manifests, as found and in its language's written form."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

from eqssl_speech.data.corpus import Corpus, DataSource, select_sources
from eqssl_speech.data.manifest import Manifest, read_manifest, read_transcripts
from eqssl_speech.error import InputError
from eqssl_speech.text.normalization import TextRefusedError

SPLITS: Final = ("train", "valid", "test")
"""The splits whose text is looked at, where a source has them."""

_SUFFIX: Final = ".wrd"


@final
@dataclass(frozen=True)
class Transcripts:
    """The text of one split of one source."""

    source: DataSource
    """The source."""

    split: str
    """The name of the split."""

    manifest: Manifest
    """The utterances that the text belongs to."""

    raw: tuple[str, ...]
    """The text of each utterance as found."""

    texts: tuple[str, ...]
    """The text of each utterance in the written form; empty where it was refused."""

    refusals: Mapping[int, str]
    """Why text was refused, by the index of its utterance."""

    @property
    def usable(self) -> list[int]:
        """The indices of the utterances that have text."""
        return [index for index, text in enumerate(self.texts) if text]

    @property
    def empty(self) -> list[int]:
        """The indices of the utterances of whose text nothing is left, though it was not refused."""
        return [i for i, text in enumerate(self.texts) if not text and i not in self.refusals]


def list_transcribed_splits(source: DataSource) -> list[str]:
    """Return which of :data:`SPLITS` a source has with text."""
    return [
        split
        for split in SPLITS
        if source.manifest_file(split).exists() and _transcript_file(source, split).exists()
    ]


def select_transcribed(corpus: Corpus, names: Sequence[str] | None) -> tuple[Corpus, list[str]]:
    """Keep the sources of a corpus that have training text.

    :param corpus: The corpus.
    :param names: The sources that are wanted; ``None`` for all that have text.
    :returns: The corpus of these sources, and the names of those left out for want of text.
    :raises InputError: If a named source has no text or is unknown, or if no source has any.
    """
    corpus = select_sources(corpus, names)

    without = [s.name for s in corpus.sources if "train" not in list_transcribed_splits(s)]

    if without and names is not None:
        file = _transcript_file(select_sources(corpus, without[:1]).sources[0], "train")
        raise InputError(
            f"{file}: the source `{without[0]}` has no training text; "
            "write one line of text per line of its manifest into this file, or leave the source out."
        )

    if len(without) == len(corpus.sources):
        raise InputError(
            f"{corpus.directory}: no source has text; "
            "write one line of text per utterance into train.wrd beside each train.tsv."
        )

    kept = [source.name for source in corpus.sources if source.name not in without]

    return select_sources(corpus, kept), without


def read_split(source: DataSource, split: str, normalize: Callable[[str], str]) -> Transcripts:
    """Read the text of a split and bring it into the written form.

    :param source: The source.
    :param split: One of :func:`list_transcribed_splits`.
    :param normalize: Writes one text; see :class:`~eqssl_speech.text.normalization.TextNormalizer`.
    :returns: The text.
    :raises InputError: If the manifest or the text cannot be read, or if they do not fit.
    """
    manifest = read_manifest(source.manifest_file(split))

    raw = read_transcripts(_transcript_file(source, split), manifest)

    texts, refusals = [], {}

    for index, text in enumerate(raw):
        try:
            texts.append(normalize(text))
        except TextRefusedError as ex:
            texts.append("")
            refusals[index] = str(ex)

    return Transcripts(source, split, manifest, tuple(raw), tuple(texts), refusals)


def require_readable_text(corpus: Corpus) -> None:
    """Read all text of a corpus, so that a mistaken file is found before hours of audio are read.

    :param corpus: The sources. A manifest that cannot be read is left to those who read the audio.
    :raises InputError: If text cannot be read, or does not fit its manifest.
    """
    for source in corpus.sources:
        for split in list_transcribed_splits(source):
            try:
                manifest = read_manifest(source.manifest_file(split))
            except InputError:
                continue

            read_transcripts(_transcript_file(source, split), manifest)


def _transcript_file(source: DataSource, split: str) -> Path:
    return source.manifest_file(split).with_suffix(_SUFFIX)
