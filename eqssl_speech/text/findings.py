"""What may be wrong with the text of a source, utterance by utterance; each function looks for one kind of fault."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import median
from typing import Final, Literal, TypeAlias, final

from eqssl_speech.text.coverage import list_characters
from eqssl_speech.text.frames import min_frames, num_frames
from eqssl_speech.text.labels import Labels
from eqssl_speech.text.transcripts import Transcripts

FindingKind: TypeAlias = Literal[
    "impossible",
    "refused",
    "empty",
    "unknown",
    "too fast",
    "too slow",
    "repeated",
    "casing",
    "scripts",
    "brackets",
]

REMEDIES: Final[dict[FindingKind, str]] = {
    "impossible": "CTC needs a frame (20 ms) per label and one between equal labels, so `eqssl finetune` leaves these "
    "out: correct the text or the recording, or make a tokenizer of fewer labels (`--kind bpe`)",
    "refused": "left out, as nobody wrote how it was spoken: write numbers and signs as words, or make a tokenizer "
    "with other `--digits` or `--punctuation`",
    "empty": "left out, as no letter is left of the text: write what is said, or remove the utterance",
    "unknown": "never recognised, as the vocabulary lacks these characters: correct the text, or make a tokenizer of "
    "training text that has them (or with a lower `--min-char-count`)",
    "too fast": "more than 5 robust deviations (1.4826 MAD) above the source's median of characters per second: "
    "listen whether the recording is cut off, or the text is another's",
    "too slow": "less than a quarter of the source's median of characters per second: listen whether words are "
    "missing in the text",
    "repeated": "an earlier split has the same text, so error rates come out too good: if the recording is the same "
    "too, keep it in one split",
    "casing": "capital letters are used in several ways: harmless in small letters (the default), but with "
    "`--case keep` write all text in one way",
    "scripts": "letters of two alphabets in one word may look alike, but are different labels: type the word again",
    "brackets": "remarks in brackets are taken for spoken words: remove them from the text",
}
"""What each kind means and what to do, in the order in which they are reported."""

_MIN_FOR_MEDIAN: Final = 20
_FAST_DEVIATIONS: Final = 5
_SLOW_FACTOR: Final = 4
_MAD_TO_DEVIATION: Final = 1.4826
# Of very even speech, of which every small thing would be an outlier, one deviation is taken to be this share.
_MIN_DEVIATION: Final = 0.1

_SCRIPTS: Final = frozenset({"LATIN", "CYRILLIC", "GREEK"})

_BRACKETS: Final = re.compile(r"\[[^\]]*\]|\{[^}]*\}|<[^>]*>")

_MAX_TEXT: Final = 40


@final
@dataclass(frozen=True)
class Finding:
    """Something that is, or may be, wrong."""

    kind: FindingKind
    """The kind of fault, which has a remedy in :data:`REMEDIES`."""

    source: str
    """The name of the source."""

    where: str
    """The manifest and the line of the utterance, or of an example, as ``file:line``."""

    message: str
    """The fault in words."""

    count: int = 1
    """The number of utterances that it is about."""


@final
@dataclass(frozen=True)
class CheckedSplit:
    """The text of one split, and the lengths of its recordings."""

    transcripts: Transcripts
    """The text."""

    num_samples: Mapping[int, int]
    """The length of each usable recording in samples at the model's rate, by the index of its utterance."""

    @property
    def num_bad_recordings(self) -> int:
        """The number of utterances whose recording cannot be used."""
        return len(self.transcripts.raw) - len(self.num_samples)

    def find(self, kind: FindingKind, index: int, message: str, count: int = 1) -> Finding:
        """Return a finding about an utterance."""
        transcripts = self.transcripts
        where = transcripts.manifest.describe_line(index)

        return Finding(kind, transcripts.source.name, where, message, count)

    @property
    def usable(self) -> list[int]:
        """The indices of the utterances that have both a recording and text."""
        return [index for index in self.transcripts.usable if index in self.num_samples]


def is_possible(split: CheckedSplit, index: int, labels: Labels) -> bool:
    """Say whether CTC can align an utterance."""
    needed = min_frames(labels.encode(split.transcripts.texts[index]))

    return needed <= num_frames(split.num_samples[index])


def find_impossible(split: CheckedSplit, labels: Labels) -> Iterator[Finding]:
    """Find utterances that CTC cannot align."""
    for index in split.usable:
        if not is_possible(split, index, labels):
            text = split.transcripts.texts[index]
            encoded, available = labels.encode(text), num_frames(split.num_samples[index])

            yield split.find(
                "impossible",
                index,
                f"{len(encoded)} labels need {min_frames(encoded)} frames, but there are {available}: {quote(text)}",
            )


def find_unusable_text(split: CheckedSplit) -> Iterator[Finding]:
    """Find utterances whose text is refused or empty."""
    transcripts = split.transcripts

    for index, reason in transcripts.refusals.items():
        yield split.find("refused", index, f"the text {reason}: {quote(transcripts.raw[index])}")

    for index in transcripts.empty:
        yield split.find("empty", index, f"no letter is left: {quote(transcripts.raw[index])}")


def find_unknown_characters(split: CheckedSplit, labels: Labels) -> Iterator[Finding]:
    """Find utterances that hold characters that the vocabulary lacks."""
    known = labels.alphabet | {" "}

    for index in split.transcripts.usable:
        text = split.transcripts.texts[index]

        if unknown := set(text) - known:
            listed = list_characters("".join(sorted(unknown)))
            yield split.find("unknown", index, f"the vocabulary lacks {listed}: {quote(text)}")


def find_odd_rates(
    splits: Sequence[CheckedSplit], labels: Labels, sample_rate: int
) -> Iterator[Finding]:
    """Find utterances of a source that are spoken much faster or slower than its others.

    Fast is what has more than 5 robust deviations (1.4826 times the median absolute deviation) above the median, slow
    what has less than a quarter of the median; there must be 20 utterances. What is impossible anyhow is not counted.
    """
    rates = [
        (split, i, len(split.transcripts.texts[i].replace(" ", "")) * sample_rate / length)
        for split in splits
        for i in split.usable
        if is_possible(split, i, labels) and (length := split.num_samples[i]) > 0
    ]
    if len(rates) < _MIN_FOR_MEDIAN:
        return

    middle = median(rate for _, _, rate in rates)
    deviation = _MAD_TO_DEVIATION * median(abs(rate - middle) for _, _, rate in rates)

    fastest = middle + _FAST_DEVIATIONS * max(deviation, _MIN_DEVIATION * middle)

    for split, index, rate in rates:
        if rate > fastest or rate * _SLOW_FACTOR < middle:
            kind: FindingKind = "too fast" if rate > fastest else "too slow"
            text = quote(split.transcripts.texts[index])
            yield split.find(kind, index, f"{rate:.1f} characters/s, median {middle:.1f}: {text}")


def find_repeated_text(splits: Sequence[CheckedSplit]) -> Iterator[Finding]:
    """Find utterances whose text an earlier split of the source has as well."""
    seen: dict[str, tuple[str, str]] = {}

    for split in splits:
        transcripts = split.transcripts

        for index in transcripts.usable:
            text = transcripts.texts[index]
            where = transcripts.manifest.describe_line(index)
            first_split, first = seen.setdefault(text, (transcripts.split, where))

            if first_split != transcripts.split:
                yield split.find("repeated", index, f"the same text as {first}: {quote(text)}")


def find_mixed_scripts(split: CheckedSplit) -> Iterator[Finding]:
    """Find words of letters of several alphabets."""
    for index in split.transcripts.usable:
        for word in split.transcripts.texts[index].split():
            scripts = {_find_script(char) for char in word} & _SCRIPTS

            if len(scripts) > 1:
                listed = " and ".join(sorted(script.capitalize() for script in scripts))
                yield split.find("scripts", index, f"{quote(word)} has {listed} letters")
                break


def find_brackets(split: CheckedSplit) -> Iterator[Finding]:
    """Find remarks in brackets that are part of the written form."""
    for index in split.transcripts.usable:
        if match := _BRACKETS.search(split.transcripts.raw[index]):
            yield split.find("brackets", index, f"{quote(match[0])} is in the text")


@lru_cache(maxsize=4096)
def _find_script(char: str) -> str:
    return unicodedata.name(char, "").split(" ")[0] if char.isalpha() else ""


def quote(text: str) -> str:
    """Return the beginning of a text, for messages."""
    text = " ".join(text.split())

    return f"`{text}`" if len(text) <= _MAX_TEXT else f"`{text[:_MAX_TEXT]}...`"
