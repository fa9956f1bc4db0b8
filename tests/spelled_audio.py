"""Audio that spells text, and a stand-in for a recogniser that reads it: what is recognised is known to the letter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from zlib import crc32

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from torch import Tensor

from eqssl_speech.text.languages import make_rules
from eqssl_speech.text.tokenizer import CtcTokenizer
from eqssl_speech.text.tokenizer_info import TrainedSource
from eqssl_speech.text.training import train_tokenizer

RATE = 16_000
HOP = 320
RECEPTIVE_FIELD = 400

# Of the loudest level; leaves room for the ripple of a resampling filter.
_TOP = 0.8


def make_tokenizer() -> CtcTokenizer:
    """Make a character vocabulary of English, German and Russian."""
    texts = {
        TrainedSource("en", "en", 1): ["abcdefghijklmnopqrstuvwxyz"],
        TrainedSource("de", "de", 1): ["äöüß"],
        TrainedSource("ru", "ru", 1): ["мир"],
    }

    return train_tokenizer(texts, {key: make_rules(key) for key in ("en", "de", "ru")})


TOKENIZER = make_tokenizer()


def spell(
    text: str,
    sample_rate: int = RATE,
    *,
    char_frames: int = 2,
    gap_frames: int = 2,
    pauses: dict[int, int] | None = None,
) -> NDArray[np.float32]:
    """Spell text as levels: a frame whose middle has the level of a label says that label.

    :param text: Words of the vocabulary, joined by single spaces.
    :param sample_rate: In Hz.
    :param char_frames: The frames of a label.
    :param gap_frames: The frames of blank after it.
    :param pauses: Further frames of blank after the label with that index.
    :returns: The samples. *Shape:* ``(S,)``.
    """
    levels: list[float] = [0.0] * 5

    for index, label in enumerate(TOKENIZER.encode(text)):
        pause = (pauses or {}).get(index, 0)
        levels += [_TOP * label / TOKENIZER.vocab_size] * char_frames
        levels += [0.0] * (gap_frames + pause)

    levels += [0.0] * 5

    # So that no two frames are the same, and no two hypotheses are equally probable.
    rng = np.random.default_rng(crc32(text.encode()))
    dither = rng.uniform(-0.1, 0.1, len(levels)) * _TOP / TOKENIZER.vocab_size

    return np.repeat((levels + dither).astype(np.float32), HOP * sample_rate // RATE)


def write_spelled(
    file: Path, text: str, sample_rate: int = RATE, num_channels: int = 1, **more: object
) -> int:
    """Write an audio file that spells text; the number of its samples is returned."""
    samples = spell(text, sample_rate, **more)  # type: ignore[arg-type]

    file.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(file, np.stack([samples] * num_channels, axis=1), sample_rate)

    return len(samples)


@dataclass(frozen=True)
class SpelledRecognizer:
    """Has the attributes of `eqssl_speech.tasks.recognizer.Recognizer`, and keeps count of what it was given."""

    tokenizer: CtcTokenizer = TOKENIZER
    sample_rate: int = RATE
    frame_shift_s: float = HOP / RATE
    receptive_field_samples: int = RECEPTIVE_FIELD
    sources: tuple[tuple[str, str], ...] = (("en", "en"),)
    description: str = "spelled audio"
    batches: list[list[int]] = field(default_factory=list)

    def emit(self, waveforms: Sequence[NDArray[np.float32]]) -> list[Tensor]:
        self.batches.append([len(w) for w in waveforms])

        return [self._emit_one(w) for w in waveforms]

    def _emit_one(self, waveform: NDArray[np.float32]) -> Tensor:
        num_frames = (len(waveform) - RECEPTIVE_FIELD) // HOP + 1

        middles = np.abs(waveform[HOP // 2 :: HOP][:num_frames])
        levels = torch.from_numpy(middles * self.tokenizer.vocab_size / _TOP)
        labels = levels.round()

        # (T, 1) x (V) -> (T, V)
        probs = 1.5 + torch.sin(
            torch.outer(
                1 + 20 * (levels - labels), torch.arange(1.0, 1.0 + self.tokenizer.vocab_size)
            )
        )
        probs *= 0.1 / probs.sum(dim=-1, keepdim=True)
        probs[torch.arange(num_frames), labels.long()] += 0.9

        return probs.log()


def write_ngram(file: Path, words: Sequence[str]) -> Path:
    """Write a bigram in which every word is as probable after every other, and unknown ones are rare."""
    entries = [("<unk>", -20.0), ("<s>", -99.0), ("</s>", -1.0), *((word, -1.0) for word in words)]

    lines = ["\\data\\", f"ngram 1={len(entries)}", "ngram 2=1", "", "\\1-grams:"]
    lines += [f"{score}\t{word}\t0" for word, score in entries]
    lines += ["", "\\2-grams:", f"-1.0\t<s> {words[0]}", "", "\\end\\"]

    file.write_text("".join(f"{line}\n" for line in lines))

    return file
