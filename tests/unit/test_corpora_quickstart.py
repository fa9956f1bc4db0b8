"""The sample that ships with the repository."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from eqssl_speech.data.corpora.splits import audio_digest
from eqssl_speech.data.corpora.text import normalize_text
from eqssl_speech.data.corpus import Corpus, load_corpus
from eqssl_speech.data.manifest import Manifest, read_manifest, read_transcripts
from eqssl_speech.data.phones import Phone, phones_file, read_phones, require_phones_fit

SAMPLE = Path(__file__).parents[2] / "recipes/quickstart/corpus"


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    """The sample."""
    return load_corpus(SAMPLE)


def test_sample_is_as_large_and_as_varied_as_promised(corpus: Corpus) -> None:
    size = sum(file.stat().st_size for file in SAMPLE.rglob("*") if file.is_file())

    assert size <= 12e6
    assert len(corpus.sources) >= 5
    assert len({source.language for source in corpus.sources}) >= 4
    assert len({source.domain for source in corpus.sources}) >= 2


def test_every_source_has_minutes_text_and_a_notice(corpus: Corpus) -> None:
    notices = "".join(file.read_text(encoding="utf-8") for file in (SAMPLE / "NOTICES").iterdir())
    total = 0.0
    for source in corpus.sources:
        assert source.name in notices
        for split, low, high in (("train", 3.5, 4.1), ("valid", 1.0, 1.5)):
            manifest = read_manifest(source.manifest_file(split))
            texts = read_transcripts(source.directory / f"{split}.wrd", manifest)
            minutes = sum(entry.num_samples for entry in manifest.entries) / 16_000 / 60
            assert all(texts)
            assert low <= minutes <= high
            total += minutes
    assert 24 <= total <= 27
    assert "MODIFIED VERSION" in notices


def test_text_is_words_of_letters(corpus: Corpus) -> None:
    for source in corpus.sources:
        for file in source.directory.glob("*.wrd"):
            for line in file.read_text(encoding="utf-8").splitlines():
                assert line == normalize_text(line)
                assert set("ºª").isdisjoint(line)


def test_every_recording_is_as_its_manifest_says_and_on_one_side_only(corpus: Corpus) -> None:
    content: dict[str, set[str]] = {"train": set(), "valid": set()}
    files = set()
    for source in corpus.sources:
        for split, seen in content.items():
            manifest = read_manifest(source.manifest_file(split))
            seen.update(read_transcripts(source.directory / f"{split}.wrd", manifest))
            for entry in manifest.entries:
                samples, rate = soundfile.read(manifest.locate(entry), dtype="float32")
                assert rate == 16_000
                assert samples.shape == (entry.num_samples,)
                assert 2 * 16_000 <= entry.num_samples <= 12 * 16_000
                seen.add(audio_digest(samples))
                files.add(manifest.locate(entry).resolve())
    assert not content["train"] & content["valid"]
    assert files == {file.resolve() for file in SAMPLE.rglob("*.ogg")}


def test_every_russian_utterance_has_phones_that_fit_what_is_heard(corpus: Corpus) -> None:
    source = next(source for source in corpus.sources if source.name == "ru-festvox")
    labels = set()

    for split in ("train", "valid"):
        manifest = read_manifest(source.manifest_file(split))
        file = phones_file(source, split)
        require_phones_fit(file, manifest, dict(enumerate(_durations_s(manifest))))

        for entry, phones in zip(manifest.entries, read_phones(file, manifest), strict=True):
            assert phones is not None
            labels.update(phone.label for phone in phones)

            # Without gaps, from the start to the last frame of the package's aligner.
            assert phones[0].start_s == 0.0
            assert all(p.end_s == q.start_s for p, q in pairwise(phones))
            assert 0.0 <= entry.num_samples / 16_000 - phones[-1].end_s < 0.02

            samples, _ = soundfile.read(manifest.locate(entry))
            silence, vowels = (
                np.median([_level_db(samples, p) for p in phones if p.label in wanted])
                for wanted in ({"pau"}, {"a", "aa", "ae", "ee", "ii", "oo", "uu"})
            )
            # 39 dB in the worst one; with the labels of the next recording 3 dB in the middle one.
            assert vowels - silence > 30.0

    assert len(labels) == 51


def _durations_s(manifest: Manifest) -> list[float]:
    return [entry.num_samples / 16_000 for entry in manifest.entries]


def _level_db(samples: npt.NDArray[np.float64], phone: Phone) -> float:
    part = samples[round(16_000 * phone.start_s) : round(16_000 * phone.end_s)]

    return float(10 * np.log10(np.mean(part**2) + 1e-10))
