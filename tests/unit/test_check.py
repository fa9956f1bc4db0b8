"""The check of a source: good and bad files are told apart, counted and named, in any number of threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from eqssl_speech.data.audio import AudioFormat
from eqssl_speech.data.check import BadFile, SourceReport, check_split, require_usable
from eqssl_speech.data.corpus import DataSource, load_corpus
from eqssl_speech.data.manifest import Manifest, ManifestEntry, read_manifest, write_manifest
from eqssl_speech.error import InputError

MakeCorpus = Callable[..., Path]
MakeSpeech = Callable[..., NDArray[np.float32]]
WriteAudio = Callable[..., int]


def check(
    source: DataSource, split: str = "train", fmt: AudioFormat | None = None, full: bool = False
) -> tuple[Manifest, SourceReport]:
    return check_split(
        source,
        split,
        fmt or AudioFormat(),
        min_duration_s=0.5,
        full=full,
        num_workers=2,
        on_progress=None,
    )


@pytest.fixture
def mixed_source(tmp_path: Path, make_speech: MakeSpeech, write_audio: WriteAudio) -> DataSource:
    """A source with one file of each fault that is skipped between good ones of each format."""
    folder = tmp_path / "corpus" / "mixed"

    names = ["good-0.wav", "good-1.flac", "good-2.ogg"]
    lengths = [write_audio(folder / n, make_speech(i, 1.0)) for i, n in enumerate(names)]
    entries = [ManifestEntry(n, s) for n, s in zip(names, lengths, strict=True)]

    def add(name: str, length: int = 16000) -> Path:
        entries.append(ManifestEntry(name, length))
        return folder / name

    for name in ("cut.wav", "cut.flac", "cut.ogg"):
        file = add(name)
        write_audio(file, make_speech(9, 1.0))
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])

    add("text.wav").write_text("hello\n")
    add("gone.wav")
    add("empty.wav").touch()
    write_audio(add("short.wav", 4000), make_speech(10, 0.25))
    write_audio(add("eight.wav", 8000), make_speech(11, 1.0, 8000), 8000)
    write_audio(add("stereo.wav"), make_speech(12, 1.0), 16000, 2)

    samples = make_speech(13, 1.0)
    samples[100] = np.nan
    soundfile.write(add("nan.wav"), samples, 16000, subtype="FLOAT")

    entries.append(ManifestEntry("good-1.flac", 8000, 4000, is_slice=True))

    write_manifest(folder / "train.tsv", ".", entries)

    return DataSource("mixed", "und", "unknown", "unknown", folder)


def test_every_file_of_a_good_source_is_usable(tmp_path: Path, make_corpus: MakeCorpus) -> None:
    make_corpus(tmp_path / "c", num_train=8, formats=("wav", "flac", "ogg"), slices=True)
    source = load_corpus(tmp_path / "c").sources[0]

    manifest, report = check(source, full=True)

    assert report.bad == []
    assert report.good == list(range(8))
    assert report.num_samples == [e.num_samples for e in manifest.entries]
    assert report.duration_s == pytest.approx(sum(report.num_samples) / 16000)
    assert (report.source, report.split) == ("en", "train")
    assert {e.path.rpartition(".")[2] for e in manifest.entries} == {"wav", "flac", "ogg"}
    assert any(e.is_slice for e in manifest.entries)

    require_usable(report, 0.0)


def test_bad_files_are_counted_named_and_left_out(mixed_source: DataSource) -> None:
    manifest, report = check(mixed_source, full=True)

    assert [manifest.entries[i].path for i in report.good] == [
        "good-0.wav",
        "good-1.flac",
        "good-2.ogg",
        "good-1.flac",
    ]
    assert report.num_samples[-1] == 8000
    assert report.duration_s == pytest.approx(3.5)
    assert [(bad.line, bad.file.name, bad.reason) for bad in report.bad] == [
        (5, "cut.wav", "truncated"),
        (6, "cut.flac", "truncated"),
        (7, "cut.ogg", "truncated"),
        (8, "text.wav", "unreadable"),
        (9, "gone.wav", "missing"),
        (10, "empty.wav", "empty"),
        (11, "short.wav", "too short"),
        (12, "eight.wav", "sample rate"),
        (13, "stereo.wav", "channels"),
        (14, "nan.wav", "not finite"),
    ]
    assert all(bad.message.startswith(f"{bad.file}: ") for bad in report.bad)
    assert (report.num_good, report.num_bad) == (4, 10)
    assert next(iter(report.num_bad_by_reason.items())) == ("truncated", 3)


def test_headers_alone_do_not_show_what_only_decoding_does(mixed_source: DataSource) -> None:
    _, report = check(mixed_source)

    assert {bad.file.name for bad in report.bad}.isdisjoint({"cut.flac", "nan.wav"})
    assert report.num_bad == 8


def test_resampling_and_downmixing_make_files_usable_where_asked_for(
    mixed_source: DataSource,
) -> None:
    manifest, report = check(mixed_source, fmt=AudioFormat(resample=True, downmix=True), full=True)

    lengths = {
        manifest.entries[i].path: n for i, n in zip(report.good, report.num_samples, strict=True)
    }
    assert lengths["eight.wav"] == 16000
    assert lengths["stereo.wav"] == 16000
    assert report.duration_s == pytest.approx(5.5)


@pytest.mark.parametrize("num_workers", [0, 1, 2, 5])
def test_report_does_not_depend_on_the_number_of_threads(
    mixed_source: DataSource, num_workers: int
) -> None:
    progress: list[tuple[int, int]] = []

    _, report = check_split(
        mixed_source,
        "train",
        AudioFormat(),
        min_duration_s=0.5,
        full=True,
        num_workers=num_workers,
        on_progress=lambda n: progress.append((n, threading.get_ident())),
    )

    assert report == check(mixed_source, full=True)[1]
    assert sum(n for n, _ in progress) == 14
    assert {thread for _, thread in progress} == {threading.get_ident()}


def test_missing_manifest_of_a_split_is_named(mixed_source: DataSource) -> None:
    with pytest.raises(InputError, match=r"valid\.tsv: there is no such manifest"):
        check(mixed_source, "valid")


def test_bad_share_up_to_the_limit_is_accepted(mixed_source: DataSource) -> None:
    _, report = check(mixed_source, full=True)

    require_usable(report, 10 / 14)

    with pytest.raises(InputError, match=r"10 of the 14 utterances .* \(3 truncated, 1 unreadable"):
        require_usable(report, 9.9 / 14)


@pytest.mark.parametrize(
    ("options", "fault", "remedy"),
    [
        ({"sample_rate": 8000}, "must have 16000 Hz, but has 8000", "dataset.resample=true"),
        ({"num_channels": 2}, "must have 1 channel, but has 2", "dataset.downmix=true"),
        ({"max_duration_s": 0.4, "min_duration_s": 0.2}, "at least 8000", "dataset.min_audio_s"),
    ],
)
def test_source_without_a_usable_file_is_refused_with_its_remedy(
    tmp_path: Path, make_corpus: MakeCorpus, options: dict[str, float], fault: str, remedy: str
) -> None:
    make_corpus(tmp_path / "c", **options)
    source = load_corpus(tmp_path / "c").sources[0]
    _, report = check(source)

    with pytest.raises(InputError) as info:
        require_usable(report, 1.0)

    message = str(info.value)
    assert message.startswith(f"{source.manifest_file('train')}: the source `en` is empty")
    assert "such as line 2" in message
    assert fault in message
    assert remedy in message
    assert "\n" not in message


def test_one_wrong_length_is_enough_to_refuse(tmp_path: Path, make_corpus: MakeCorpus) -> None:
    make_corpus(tmp_path / "c")
    source = load_corpus(tmp_path / "c").sources[0]
    file = source.manifest_file("train")
    lines = file.read_text().splitlines()
    name, length = lines[3].split("\t")
    file.write_text("\n".join([*lines[:3], f"{name}\t{int(length) + 7}", *lines[4:]]) + "\n")

    _, report = check(source)

    with pytest.raises(InputError) as info:
        require_usable(report, 1.0)

    message = str(info.value)
    assert message.startswith(f"{file}:4: the length is wrong: ")
    assert f"has {length} samples, but the manifest says {int(length) + 7}" in message


def test_further_wrong_lengths_are_counted() -> None:
    bad = [BadFile(Path(f"{i}.wav"), i + 2, "wrong length", f"{i}.wav: has 1") for i in range(3)]
    report = SourceReport("en", "train", Path("en/train.tsv"), bad=bad)

    with pytest.raises(InputError, match=r"en/train\.tsv:2: .* \(and 2 more like it\)"):
        require_usable(report, 1.0)


def test_report_of_no_utterance_is_refused() -> None:
    with pytest.raises(InputError, match="`en` is empty, as none of its 0 utterances"):
        require_usable(SourceReport("en", "train", Path("en/train.tsv")), 1.0)


def test_corpus_fixture_writes_the_same_bytes_again(
    tmp_path: Path, make_corpus: MakeCorpus
) -> None:
    options = {"num_train": 3, "num_test": 1, "slices": True, "formats": ("wav", "flac")}
    first = make_corpus(tmp_path / "a", **options, transcripts=True)
    second = make_corpus(tmp_path / "b", **options, transcripts=True)

    files = sorted(f.relative_to(first) for f in first.rglob("*") if f.is_file())

    assert len(files) > 10
    for file in files:
        assert (first / file).read_bytes() == (second / file).read_bytes(), file

    assert len(read_manifest(first / "de" / "train.tsv").entries) == 3
