"""Makes the tokenizer of a corpus, as ``eqssl tokenizer`` does; nothing is printed or written here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from eqssl_speech.data.corpus import Corpus
from eqssl_speech.text.coverage import SplitCoverage, measure_coverage
from eqssl_speech.text.languages import make_rules
from eqssl_speech.text.normalization import TextNormalizer
from eqssl_speech.text.rules import RuleOverrides
from eqssl_speech.text.tokenizer import CtcTokenizer, Kind
from eqssl_speech.text.tokenizer_info import TrainedSource
from eqssl_speech.text.training import train_tokenizer
from eqssl_speech.text.transcripts import (
    Transcripts,
    list_transcribed_splits,
    read_split,
    select_transcribed,
)


@final
@dataclass(frozen=True)
class BuiltTokenizer:
    """A tokenizer, and what it makes of the corpus that it is from."""

    tokenizer: CtcTokenizer
    """The tokenizer, not yet written."""

    coverages: tuple[SplitCoverage, ...]
    """What it makes of each split of each source, in the order of the sources."""

    without_text: tuple[str, ...]
    """The sources that were left out, as they have no training text."""

    @property
    def training(self) -> list[SplitCoverage]:
        """What it makes of the text that it was made of."""
        return [c for c in self.coverages if c.split == "train"]

    @property
    def others(self) -> list[SplitCoverage]:
        """What it makes of the other splits."""
        return [c for c in self.coverages if c.split != "train"]


def build_tokenizer(
    corpus: Corpus,
    names: Sequence[str] | None = None,
    *,
    overrides: RuleOverrides | None = None,
    kind: Kind = "char",
    vocab_size: int | None = None,
    min_char_count: int = 1,
) -> BuiltTokenizer:
    """Make a tokenizer of the training text of some sources.

    :param corpus: The corpus.
    :param names: The sources; ``None`` for all that have text.
    :param overrides: Where the text is written otherwise than is the default of its language.
    :param kind: See :func:`~eqssl_speech.text.training.train_tokenizer`.
    :param vocab_size: See there.
    :param min_char_count: See there.
    :returns: The tokenizer, in memory.
    :raises InputError: If a source cannot be used, or the options do not suit the text.
    """
    corpus, without_text = select_transcribed(corpus, names)

    rules = {source.language: make_rules(source.language, overrides) for source in corpus.sources}
    normalizers = {language: TextNormalizer(r) for language, r in rules.items()}

    splits = [
        read_split(source, split, normalizers[source.language])
        for source in corpus.sources
        for split in list_transcribed_splits(source)
    ]

    tokenizer = train_tokenizer(
        dict(_take_training_text(s) for s in splits if s.split == "train"),
        rules,
        kind=kind,
        vocab_size=vocab_size,
        min_char_count=min_char_count,
    )

    coverages = tuple(measure_coverage(tokenizer, transcripts) for transcripts in splits)

    return BuiltTokenizer(tokenizer, coverages, tuple(without_text))


def _take_training_text(transcripts: Transcripts) -> tuple[TrainedSource, list[str]]:
    texts = [transcripts.texts[index] for index in transcripts.usable]

    source = transcripts.source

    return TrainedSource(source.name, source.language, len(texts)), texts
