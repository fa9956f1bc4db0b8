"""Anyone's recordings as a corpus."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from eqssl_speech.data.corpora import prepare_folder
from eqssl_speech.data.corpus import load_corpus
from eqssl_speech.data.manifest import read_manifest, read_transcripts
from eqssl_speech.error import InputError


def write_noise(file: Path, seed: int, rate: int = 16_000, channels: int = 1) -> None:
    """Write one second of noise."""
    file.parent.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(seed).uniform(-0.5, 0.5, (rate, channels))
    soundfile.write(file, samples.astype(np.float32), rate)


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """Two sources: one all good with text beside it, one with everything that can be wrong."""
    directory = tmp_path / "in"
    for number in range(20):
        file = directory / "good" / f"sub/{number}.{('wav', 'flac', 'ogg')[number % 3]}"
        write_noise(file, number)
        file.with_suffix(".txt").write_text(f"Line\n{'abcde'[number % 5]}.", encoding="utf-8")
    bad = directory / "bad"
    for number in range(4):
        write_noise(bad / f"{number}.wav", 100 + number)
    write_noise(bad / "eight.wav", 200, rate=8_000)
    write_noise(bad / "stereo.wav", 201, channels=2)
    write_noise(bad / "copy.wav", 100)
    (bad / "text.wav").write_text("not audio")
    (bad / "cut.wav").write_bytes((bad / "0.wav").read_bytes()[:20_000])
    (bad / "table.tsv").write_text("0.wav\tHello  there\n1\tSecond\nothers\n", encoding="utf-8")
    return directory


def test_originals_are_pointed_at_and_text_is_taken_along(recordings: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    report = prepare_folder(recordings, out, num_workers=2, valid_share=0.2)

    source = next(s for s in load_corpus(out).sources if s.name == "good")
    manifests = {s: read_manifest(source.manifest_file(s)) for s in ("train", "valid")}
    texts = {
        s: set(read_transcripts(source.directory / f"{s}.wrd", m)) for s, m in manifests.items()
    }
    assert all(m.root == recordings / "good" for m in manifests.values())
    assert sum(len(m.entries) for m in manifests.values()) == 20
    assert texts["train"] | texts["valid"] == {f"Line {c}." for c in "abcde"}
    assert not texts["train"] & texts["valid"]
    assert not list(out.rglob("*.flac"))
    assert report.sources[1].name == "good"
    assert report.sources[1].total_duration_s == pytest.approx(20)


def test_bad_files_are_named_counted_and_left_out(recordings: Path, tmp_path: Path) -> None:
    report = prepare_folder(recordings, tmp_path / "out", num_workers=0)

    bad = report.sources[0]
    assert bad.left_out == {
        "sample rate": 1, "channels": 1, "duplicate": 1, "unreadable": 1, "truncated": 1,
    }  # fmt: skip
    names = {recording.file.name: recording.reason for recording in bad.bad}
    assert names["eight.wav"] == "sample rate"
    assert names["cut.wav"] == "truncated"
    assert sum(bad.num_utterances.values()) == 4
    assert bad.num_without_text == 2


def test_other_rates_and_channels_are_converted_where_asked_for(
    recordings: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"

    report = prepare_folder(recordings, out, num_workers=0, resample=True, downmix=True)

    assert sum(report.sources[0].num_utterances.values()) == 6
    files = sorted(out.rglob("*.flac"))
    assert [file.name for file in files] == ["eight.wav.flac", "stereo.wav.flac"]
    assert all(soundfile.info(f).samplerate == 16_000 for f in files)
    manifest = read_manifest(out / "bad/train.tsv")
    assert all(soundfile.info(manifest.locate(e)).frames == e.num_samples for e in manifest.entries)


def test_interrupted_and_started_again_gives_the_same_bytes(
    recordings: Path, tmp_path: Path
) -> None:
    def interrupt(what: str, done: int, total: int) -> None:
        if what == "good" and done == 7:
            raise KeyboardInterrupt

    options = {"num_workers": 0, "resample": True, "downmix": True}
    with pytest.raises(KeyboardInterrupt):
        prepare_folder(recordings, tmp_path / "a", progress=interrupt, **options)  # type: ignore[arg-type]
    calls: list[str] = []
    prepare_folder(recordings, tmp_path / "a", progress=lambda w, d, t: calls.append(w), **options)  # type: ignore[arg-type]
    prepare_folder(recordings, tmp_path / "b", **options)  # type: ignore[arg-type]

    trees = [
        {f.relative_to(d): f for f in d.rglob("*") if f.is_file()}
        for d in (tmp_path / "a", tmp_path / "b")
    ]
    contents = [
        {n: f.read_bytes().replace(str(d).encode(), b"OUT") for n, f in tree.items()}
        for d, tree in zip((tmp_path / "a", tmp_path / "b"), trees, strict=True)
    ]
    assert contents[0] == contents[1]
    assert calls.count("good") == 13


def test_changed_recording_is_read_again(recordings: Path, tmp_path: Path) -> None:
    prepare_folder(recordings, tmp_path / "out", num_workers=0)
    write_noise(recordings / "bad/text.wav", 300)
    calls: list[str] = []

    report = prepare_folder(
        recordings, tmp_path / "out", num_workers=0, progress=lambda w, d, t: calls.append(w)
    )

    assert calls == ["bad"]
    assert sum(report.sources[0].num_utterances.values()) == 5


def test_sources_file_gives_languages(recordings: Path, tmp_path: Path) -> None:
    (recordings / "sources.tsv").write_text(
        "source\tlanguage\tdomain\tlicence\ngood\tsv\tread\tCC0\n", encoding="utf-8"
    )

    prepare_folder(recordings, tmp_path / "out", num_workers=0)

    (source,) = load_corpus(tmp_path / "out").sources
    assert (source.name, source.language, source.licence) == ("good", "sv", "CC0")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda d: ({"directory": d / "nothing"}), "there is no such directory"),
        (lambda d: ({"out": d / "good/out"}), "lies inside"),
        (lambda d: ({"valid_share": 1.0}), "`valid_share` must be"),
        (lambda d: ({"valid_share": 0.6, "test_share": 0.4}), "something to train on"),
        (lambda d: (d / "a b").mkdir() or {}, "rename the folder"),
    ],
)
def test_wrong_arguments_are_refused(
    recordings: Path, tmp_path: Path, change: object, match: str
) -> None:
    assert callable(change)
    arguments = {"directory": recordings, "out": tmp_path / "out", "num_workers": 0}

    with pytest.raises(InputError, match=match):
        prepare_folder(**{**arguments, **change(recordings)})


def test_folder_without_anything_usable_is_refused(tmp_path: Path) -> None:
    write_noise(tmp_path / "in/s/a.wav", 0, rate=8_000)

    with pytest.raises(InputError, match="1 sample rate"):
        prepare_folder(tmp_path / "in", tmp_path / "out", num_workers=0)
