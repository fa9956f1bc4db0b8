"""A corpus without recordings, in whose text faults are planted."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from eqssl_speech.data.check import SourceReport
from eqssl_speech.data.corpus import Corpus, DataSource, load_corpus, write_sources
from eqssl_speech.data.manifest import ManifestEntry, write_manifest
from eqssl_speech.text.ctc_check import CtcCheck, check_ctc

RATE = 16_000

# 12 characters a second, as people speak.
CHARACTERS_PER_S = 12

WORDS = (
    "come",
    "quando",
    "dire",
    "parola",
    "città",
    "più",
    "luna",
    "fiume",
    "sera",
    "bello",
    "ancora",
)


class Planted:
    """A corpus without recordings, whose lengths are made up to fit the text."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.reports: list[SourceReport] = []
        self.sources: list[DataSource] = []
        self.rng = random.Random(1)

    def make_lines(self, count: int) -> list[str]:
        return [" ".join(self.rng.choices(WORDS, k=self.rng.randint(6, 12))) for _ in range(count)]

    def add(
        self,
        split: str,
        lines: Sequence[str],
        *,
        name: str = "it",
        language: str = "it",
        lengths: dict[int, int] | None = None,
        bad: Sequence[int] = (),
    ) -> None:
        folder = self.directory / name
        folder.mkdir(exist_ok=True)

        num_samples = [
            max(RATE, round(len(line) * RATE / CHARACTERS_PER_S * self.rng.uniform(0.9, 1.1)))
            for line in lines
        ]
        for index, length in (lengths or {}).items():
            num_samples[index] = length

        entries = [ManifestEntry(f"{split}{i}.wav", n) for i, n in enumerate(num_samples)]
        write_manifest(folder / f"{split}.tsv", ".", entries)
        (folder / f"{split}.wrd").write_text("".join(f"{line}\n" for line in lines))

        report = SourceReport(name, split, folder / f"{split}.tsv")
        report.good = [i for i in range(len(lines)) if i not in bad]
        report.num_samples = [num_samples[i] for i in report.good]
        self.reports.append(report)

        source = DataSource(name, language, "read", "CC0", folder)
        if source not in self.sources:
            self.sources.append(source)

    def load(self) -> Corpus:
        write_sources(self.directory, self.sources)

        return load_corpus(self.directory)

    def check(self, **options: object) -> CtcCheck:
        return check_ctc(self.load(), self.reports, **options)  # type: ignore[arg-type]
