"""Normalised text, the filters, and the splits by content."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from eqssl_speech.data.corpora import splits as splits_module
from eqssl_speech.data.corpora.splits import (
    assign_split,
    audio_digest,
    content_key,
    split_keys,
)
from eqssl_speech.data.corpora.text import ClipFilter, normalize_text


@pytest.mark.parametrize(
    ("raw", "normalized"),
    [
        ("Čo? ...TAK – a 3 psi!", "čo tak a psi"),
        ("I’m 'not' l'arbre' ", "i'm not l'arbre"),
        ("e\u0301te\u0301", "été"),
        ("12 %!", ""),
    ],
)
def test_text_is_lower_case_without_digits_and_punctuation(raw: str, normalized: str) -> None:
    assert normalize_text(raw) == normalized
    assert normalize_text(normalized) == normalized


@pytest.mark.parametrize(
    ("duration_s", "text", "fault"),
    [
        (0.59, None, "too short"),
        (16.01, None, "too long"),
        (2.0, None, None),
        (2.0, "", "no text"),
        (2.0, "123", "no text"),
        (2.0, "%1 hodin", "placeholder in the text"),
        (2.0, "abcdefg", "text does not fit"),
        (2.0, "abcdefgh", None),
        (1.0, "a" * 28, None),
        (1.0, "a" * 29, "text does not fit"),
    ],
)
def test_filter_names_the_fault(duration_s: float, text: str | None, fault: str | None) -> None:
    assert ClipFilter().find_fault(duration_s, text) == fault


def test_one_text_has_one_key_and_audio_decides_without_text() -> None:
    assert content_key("a b", "1") == content_key("a b", "2")
    assert content_key(None, "1") == content_key("", "1") != content_key("", "2")


def test_splits_are_fixed_for_ever() -> None:
    """Golden: another assignment would move test recordings of published runs into training."""
    keys = [content_key(f"text {n}", "-") for n in range(2_000)]
    splits = [assign_split(key) for key in keys]

    assert splits[:30].count("train") == 26
    assert [splits.count(s) for s in ("train", "valid", "test")] == [1792, 108, 100]


def test_digest_hears_samples_and_not_their_type() -> None:
    integers = np.random.default_rng(0).integers(-32_767, 32_768, 1_000)
    samples = (integers / 32_767).astype(np.float32)
    louder = samples.copy()
    louder[500] += 0.01

    assert audio_digest(samples) == audio_digest(samples + np.float32(1e-7))
    assert audio_digest(samples) != audio_digest(louder)


@pytest.mark.parametrize("num_keys", [2, 3, 5, 50])
def test_small_sources_have_something_in_every_wanted_split(num_keys: int) -> None:
    keys = [content_key(f"{num_keys} {n}", "-") for n in range(num_keys)]

    splits = split_keys(keys, valid_share=0.05, test_share=0.0)

    assert set(splits.values()) == {"train", "valid"}


def test_a_single_recording_is_for_training() -> None:
    assert list(split_keys(["0" * 64], 0.05, 0.05).values()) == ["train"]


def test_listed_splits_name_each_recording_once() -> None:
    file = Path(splits_module.__file__).with_name("debian_speech_splits.tsv")
    header, *rows = [line.split("\t") for line in file.read_text(encoding="utf-8").splitlines()]

    listed = [(source, name) for source, split, name in rows if split != "train"]
    sources = {source for source, _, _ in rows}

    assert header == ["source", "split", "recording"]
    assert len(listed) == len(set(listed)) > 1_000
    assert {(source, split) for source, split, _ in rows} == {
        (source, split) for source in sources for split in splits_module.SPLITS
    }
