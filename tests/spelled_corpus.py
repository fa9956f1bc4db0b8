"""A corpus of spelled audio whose recordings say something else than its text: the errors are planted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from spelled_audio import write_spelled

from eqssl_speech.data.corpus import DataSource, write_sources
from eqssl_speech.data.manifest import ManifestEntry, write_manifest

SOURCES = {
    "en-read": ("en", "read"),
    "en-film": ("en", "film"),
    "de-read": ("de", "read"),
    "ru-read": ("ru", "read"),
}

_LETTERS = {"en": "abcdefghij", "de": "klmnoäöü", "ru": "мир"}


@dataclass(frozen=True)
class Planted:
    """An utterance: what the text says, and what the recording says."""

    source: str
    id: str
    reference: str
    hypothesis: str


def plant(seed: int, language: str, num_words: int) -> tuple[str, str]:
    """Draw a text, and the same with letters replaced, left out and put in; words may so be split or lost."""
    rng = np.random.default_rng(seed)
    letters = list(_LETTERS[language])

    reference = " ".join("".join(rng.choice(letters, rng.integers(1, 6))) for _ in range(num_words))

    heard = []
    for char in reference:
        draw = rng.uniform()
        if draw < 0.08:
            heard.append(str(rng.choice(letters)))
        elif draw > 0.06 + 0.08:
            heard.append(char)
        if rng.uniform() < 0.05:
            heard.append(str(rng.choice([*letters, " "])))

    return reference, " ".join("".join(heard).split())


def make_spelled_corpus(
    directory: Path, *, num_utterances: int = 12, split: str = "test", seed: int = 0
) -> list[Planted]:
    """Write a corpus; the utterances that it has are returned in its order."""
    planted = []

    for source_nr, (source, (language, _)) in enumerate(SOURCES.items()):
        folder = directory / source
        folder.mkdir(parents=True)

        entries, lines = [], []

        for i in range(num_utterances - source_nr):
            key = 1000 * source_nr + i + 100_000 * seed
            num_words = int(np.random.default_rng(key).integers(1, 12))

            reference, hypothesis = plant(key, language, num_words)
            if i == 3:
                hypothesis = ""

            name = f"audio/{i:02} ü.flac"
            entries.append(ManifestEntry(name, write_spelled(folder / name, hypothesis)))

            # As people write it; the tokenizer's rules undo it.
            lines.append(f"{reference.upper() if i % 2 else reference}!\n")
            planted.append(Planted(source, name, reference, hypothesis))

        for name in {"train", split}:
            write_manifest(folder / f"{name}.tsv", ".", entries)
            (folder / f"{name}.wrd").write_text("".join(lines), encoding="utf-8")

    sources = [DataSource(n, *SOURCES[n], "CC0-1.0", directory / n) for n in SOURCES]
    write_sources(directory, sources)

    return planted
