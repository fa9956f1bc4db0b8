"""Fixtures that several tests share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

import eqssl_speech  # noqa: F401  # Before fairseq2, as it makes libsndfile findable.
from eqssl_speech.data.corpus import DataSource, write_sources
from eqssl_speech.data.manifest import ManifestEntry, write_manifest

_SUBTYPES = {"wav": "PCM_16", "flac": "PCM_16", "ogg": "VORBIS", "mp3": "MPEG_LAYER_III"}


def _make_speech(seed: int, duration_s: float, sample_rate: int = 16_000) -> NDArray[np.float32]:
    """Make something that has what matters of speech: a gliding voice, resonances, syllables, pauses and noise.

    :param seed: Chooses the voice and what it says.
    :param duration_s: The length in seconds.
    :param sample_rate: In Hz.
    :returns: The samples. *Shape:* ``(S,)``.
    """
    rng = np.random.default_rng(seed)

    time = np.arange(round(duration_s * sample_rate)) / sample_rate

    glide = 1 + 0.2 * np.sin(2 * np.pi * rng.uniform(0.3, 1.0) * time + rng.uniform(0, 6))
    pitch = rng.uniform(90, 240) * glide
    phase = 2 * np.pi * np.cumsum(pitch) / sample_rate

    # Two resonances that move from syllable to syllable.
    syllables = (time * rng.uniform(3, 5)).astype(int)
    low = rng.uniform(300, 900, syllables.max(initial=0) + 1)[syllables]
    high = rng.uniform(1000, 2800, syllables.max(initial=0) + 1)[syllables]
    loudness = rng.choice([0.0, 0.4, 1.0], syllables.max(initial=0) + 1)[syllables]

    voice = np.zeros_like(time)
    for harmonic in range(1, 20):
        frequency = harmonic * pitch
        weight = np.exp(-(((frequency - low) / 200) ** 2))
        weight += 0.5 * np.exp(-(((frequency - high) / 300) ** 2))
        voice += np.where(frequency < sample_rate / 2, weight, 0) * np.sin(harmonic * phase)

    noise = rng.standard_normal(len(time))

    samples = 0.2 * loudness * (voice + 0.05 * noise) + 0.002 * noise

    return np.clip(samples, -1, 1).astype(np.float32)


def _write_audio(
    file: Path, samples: NDArray[np.float32], sample_rate: int = 16_000, num_channels: int = 1
) -> int:
    """Write an audio file whose format follows from its suffix.

    :returns: The number of samples that libsndfile finds in it.
    """
    file.parent.mkdir(parents=True, exist_ok=True)

    subtype = _SUBTYPES[file.suffix[1:]]
    soundfile.write(file, np.stack([samples] * num_channels, axis=1), sample_rate, subtype=subtype)

    return int(soundfile.info(file).frames)


@pytest.fixture
def make_speech() -> Callable[..., NDArray[np.float32]]:
    """Return ``make_speech(seed, duration_s, sample_rate=16_000)``, which makes speech-like samples."""
    return _make_speech


@pytest.fixture
def write_audio() -> Callable[..., int]:
    """Return ``write_audio(file, samples, sample_rate=16_000, num_channels=1)``, which returns the length written."""
    return _write_audio


@pytest.fixture
def make_corpus() -> Callable[..., Path]:
    """Return a function that writes a small corpus, always the same for the same arguments.

    ``make_corpus(directory, ...)`` returns the directory. Half of the utterances of each split, the later ones, are
    parts of one long file where ``slices`` is set. Formats take turns.
    """

    def make(
        directory: Path,
        *,
        sources: Sequence[str] = ("en", "de"),
        num_train: int = 6,
        num_valid: int = 2,
        num_test: int = 0,
        min_duration_s: float = 1.0,
        max_duration_s: float = 2.0,
        sample_rate: int = 16_000,
        num_channels: int = 1,
        formats: Sequence[str] = ("wav", "flac", "ogg"),
        slices: bool = False,
        transcripts: bool = False,
    ) -> Path:
        def write_split(source_nr: int, split: str, count: int) -> None:
            folder = directory / sources[source_nr]
            seed = 10_000 * source_nr + 3_000 * ("train", "valid", "test").index(split)

            durations = np.random.default_rng(seed).uniform(min_duration_s, max_duration_s, count)
            num_files = count - count // 2 if slices else count

            entries = []
            for i in range(num_files):
                name = f"audio/{split}-{i:03}.{formats[i % len(formats)]}"
                samples = _make_speech(seed + i, durations[i], sample_rate)
                length = _write_audio(folder / name, samples, sample_rate, num_channels)
                entries.append(ManifestEntry(name, length))

            if num_files < count:
                rest = durations[num_files:]
                name = f"audio/{split}-long.{formats[0]}"
                samples = _make_speech(seed + 999, float(rest.sum()) + 0.1, sample_rate)
                _write_audio(folder / name, samples, sample_rate, num_channels)

                offset = 0
                for duration_s in rest:
                    length = int(duration_s * sample_rate)
                    entries.append(ManifestEntry(name, length, offset, is_slice=True))
                    offset += length

            write_manifest(folder / f"{split}.tsv", ".", entries)

            if transcripts:
                lines = [f"utterance {i} of {sources[source_nr]}\n" for i in range(count)]
                (folder / f"{split}.wrd").write_text("".join(lines), encoding="utf-8")

        for source_nr, source in enumerate(sources):
            (directory / source).mkdir(parents=True)

            for split, count in (("train", num_train), ("valid", num_valid), ("test", num_test)):
                if count > 0:
                    write_split(source_nr, split, count)

        write_sources(
            directory,
            [DataSource(s, s[:2], "synthetic", "CC0-1.0", directory / s) for s in sources],
        )

        return directory

    return make
