"""Phone labels beside a manifest: written and read alike, and refused where they do not fit it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from eqssl_speech import cli
from eqssl_speech.data.corpus import DataSource, load_corpus
from eqssl_speech.data.manifest import Manifest, ManifestEntry, read_manifest, write_manifest
from eqssl_speech.data.phones import (
    Phone,
    phones_file,
    read_phones,
    require_phones_fit,
    write_phones,
)
from eqssl_speech.error import InputError
from eqssl_speech.tasks.check import CheckOptions, check_corpus

NAMES = ("a.wav", "with space/50%;.wav", "ё.wav")


@pytest.fixture
def source(tmp_path: Path) -> DataSource:
    return DataSource("s", "ru", "read", "none", tmp_path)


@pytest.fixture
def manifest(source: DataSource) -> Manifest:
    """Three files, and two parts of a fourth."""
    entries = [ManifestEntry(name, 16_000) for name in NAMES]
    entries += [ManifestEntry("long.wav", 8_000, n, is_slice=True) for n in (0, 8_000)]

    file = source.manifest_file("train")
    write_manifest(file, ".", entries)

    return read_manifest(file)


@pytest.fixture
def file(source: DataSource) -> Path:
    return phones_file(source, "train")


def draw_phones(seed: int, duration_s: float) -> list[Phone]:
    """Draw phones that follow each other, from borders that are no whole milliseconds."""
    rng = np.random.default_rng(seed)

    borders = np.sort(rng.uniform(0.0, duration_s, 9)).tolist()
    labels = rng.choice(["pau", "a", "ʂ", "tʲ", "@", "5"], 8).tolist()

    return [Phone(*row) for row in zip(borders, borders[1:], labels)]


def test_labels_stand_beside_their_manifest(source: DataSource) -> None:
    assert phones_file(source, "dev.clean") == source.directory / "dev.clean.phones.ctm"
    assert source.manifest_file("dev.clean") == source.directory / "dev.clean.tsv"


def test_phones_are_read_as_written_to_the_millisecond(file: Path, manifest: Manifest) -> None:
    phones = [draw_phones(0, 1.0), draw_phones(1, 1.0), None, [], draw_phones(2, 0.5)]

    write_phones(file, manifest, phones)
    content = file.read_bytes()
    read = read_phones(file, manifest)

    assert read[2:4] == [None, None]

    for drawn, found in zip(phones, read):
        for phone, other in zip(drawn or (), found or (), strict=True):
            assert other.label == phone.label
            assert other.start_s == pytest.approx(phone.start_s, abs=0.0005001)
            assert other.end_s == pytest.approx(phone.end_s, abs=0.0005001)

        # A phone ends exactly where the next one begins.
        for phone, following in zip(found or (), (found or ())[1:]):
            assert phone.end_s == following.start_s

    write_phones(file, manifest, read)

    assert file.read_bytes() == content


def test_lines_are_those_of_nist(file: Path, manifest: Manifest) -> None:
    phones = [Phone(0.0, 0.342, "pau"), Phone(0.342, 0.3918, "k")]

    write_phones(file, manifest, [None, phones, None, None, phones[:1]])

    assert file.read_text(encoding="utf-8").splitlines() == [
        "with%20space/50%25%3B.wav 1 0.000 0.342 pau",
        "with%20space/50%25%3B.wav 1 0.342 0.050 k",
        "long.wav:8000:8000 1 0.000 0.342 pau",
    ]


def test_files_of_other_programs_are_read(file: Path, manifest: Manifest) -> None:
    # Another channel, confidences, tabs, comments, empty lines, utterances mixed, times that overlap by their rounding.
    file.write_bytes(
        b"\xef\xbb\xbf;; made elsewhere\r\na.wav A 0.10\t0.21 a 0.7\r\n\r\n"
        b"long.wav:0:8000 A 0 .25 b 1\r\na.wav A 0.3 0.1 c 1\r\n"
    )

    assert read_phones(file, manifest) == [
        [Phone(0.1, 0.31, "a"), Phone(0.3, 0.4, "c")],
        None,
        None,
        [Phone(0.0, 0.25, "b")],
        None,
    ]


def test_utterance_that_the_manifest_names_twice_has_its_phones_twice(
    source: DataSource, file: Path
) -> None:
    tsv = source.manifest_file("train")
    write_manifest(tsv, ".", [ManifestEntry("a.wav", 16_000)] * 2)
    manifest = read_manifest(tsv)

    write_phones(file, manifest, [[Phone(0.0, 0.5, "a")]] * 2)

    assert len(file.read_text().splitlines()) == 1
    assert read_phones(file, manifest) == [[Phone(0.0, 0.5, "a")]] * 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a.wav 1 0.5 0.1", r"ctm:2: a line must hold .* but has 4 columns"),
        ("a.wav 1 0.5 0.1 a 1 x", "but has 7 columns"),
        ("a.wav 1 x 0.1 b", r"ctm:2: the start and the duration .*`x 0\.1` instead"),
        ("a.wav 1 -0.5 0.1 b", r"`-0\.5 0\.1` instead"),
        ("a.wav 1 0.5 -0.1 b", r"`0\.5 -0\.1` instead"),
        ("a.wav 1 nan 0.1 b", "`nan 0.1` instead"),
        ("a.wav 1 0.5 inf b", "`0.5 inf` instead"),
        ("b.wav 1 0.5 0.1 b", r"ctm:2: the manifest .*train\.tsv has no utterance `b\.wav`"),
        ("long.wav 1 0.5 0.1 b", r"has no utterance `long\.wav`"),
        (
            "a.wav 1 0.2 0.2 b",
            r"ctm:2: the phone `b` begins at 0\.200 s, within or before `a` \(0\.000 to 0\.500 s\)",
        ),
    ],
)
def test_line_that_cannot_be_is_named(
    file: Path, manifest: Manifest, line: str, message: str
) -> None:
    file.write_text(f"a.wav 1 0 0.5 a\n{line}\n")

    with pytest.raises(InputError, match=message):
        read_phones(file, manifest)


def test_phone_before_the_one_before_it_is_refused_however_short(
    file: Path, manifest: Manifest
) -> None:
    file.write_text("a.wav 1 0.5 0.001 a\na.wav 1 0.495 0.006 b\n")

    with pytest.raises(InputError, match="in the order of their times"):
        read_phones(file, manifest)


def test_missing_file_and_other_text_are_refused(file: Path, manifest: Manifest) -> None:
    with pytest.raises(InputError, match=r"phones\.ctm: the phone labels cannot be read \(No such"):
        read_phones(file, manifest)

    file.write_bytes(b"a.wav 1 0 1 \xff\n")

    with pytest.raises(InputError, match=r"are not UTF-8 text \(byte 12\)"):
        read_phones(file, manifest)


@pytest.mark.parametrize(
    ("phones", "message"),
    [
        ([Phone(0.0, 0.5, "a b")], r"a\.wav: the phone 'a b' must be one word"),
        ([Phone(0.0, 0.5, "")], "the phone '' must be one word"),
        ([Phone(0.5, 0.4, "a")], r"from 0\.5 to 0\.4 s instead"),
        ([Phone(-0.1, 0.4, "a")], r"from -0\.1 to 0\.4 s instead"),
        ([Phone(0.0, float("inf"), "a")], r"from 0\.0 to inf s instead"),
        ([Phone(0.0, 0.5, "a"), Phone(0.48, 0.6, "b")], "the phone `b` begins at 0.480 s"),
    ],
)
def test_what_could_not_be_read_is_not_written(
    file: Path, manifest: Manifest, phones: list[Phone], message: str
) -> None:
    file.write_text("precious")

    with pytest.raises(InputError, match=message):
        write_phones(file, manifest, [phones, None, None, None, None])

    assert file.read_text() == "precious"


def test_phones_of_another_number_of_utterances_are_not_written(
    file: Path, manifest: Manifest
) -> None:
    with pytest.raises(InputError, match=r"phones for 4 utterances, but .*train\.tsv has 5"):
        write_phones(file, manifest, [None] * 4)

    assert not file.exists()


def test_phone_may_end_with_its_utterance_but_not_after_it(file: Path, manifest: Manifest) -> None:
    write_phones(file, manifest, [[Phone(0.0, 0.2, "a"), Phone(0.2, 0.95, "b")], *[None] * 4])

    require_phones_fit(file, manifest, {0: 0.95, 1: 0.1})
    require_phones_fit(file, manifest, {0: 0.945})  # As rounding to two decimals may do.
    require_phones_fit(file, manifest, {1: 0.1})

    with pytest.raises(InputError, match=r"`b` of a\.wav ends at 0\.950 s.* is 0\.900 s long"):
        require_phones_fit(file, manifest, {0: 0.9})


def test_check_of_a_corpus_reads_its_phones(
    make_corpus: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = load_corpus(make_corpus(tmp_path / "corpus", slices=True))
    source = corpus.sources[1]
    manifest = read_manifest(source.manifest_file("train"))
    durations_s = [entry.num_samples / 16_000 for entry in manifest.entries]
    file = phones_file(source, "train")

    def check() -> list[str]:
        return check_corpus(corpus, CheckOptions(min_audio_s=0.5), on_progress=None).unusable

    write_phones(file, manifest, [draw_phones(i, s) for i, s in enumerate(durations_s)])

    assert check() == []

    # The last one, a part of a long file, is longer in the labels than its entry says, not longer than the file.
    too_long = [None] * 5 + [[Phone(0.0, durations_s[5] + 0.02, "a")]]
    write_phones(file, manifest, too_long)

    [sentence] = check()
    assert sentence.startswith(f"{file}: the phone `a` of {manifest.entries[5]} ends at ")

    assert cli.main(["check", str(corpus.directory), "--jobs", "1", "--min-audio-s", "0.5"]) == 2
    assert sentence in capsys.readouterr().err
