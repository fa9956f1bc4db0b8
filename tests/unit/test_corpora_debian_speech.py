"""debian_speech from end to end, on a package made by hand."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from eqssl_speech.data.corpora import debian_speech, packages, prepare_debian_speech, source_job
from eqssl_speech.data.corpora.clip import Clip
from eqssl_speech.data.corpora.debian_packages import SPEECH_PACKAGES, Fetch, SpeechPackage
from eqssl_speech.data.corpora.packages import fetch_package, require_debian_tools
from eqssl_speech.data.corpus import load_corpus
from eqssl_speech.data.manifest import read_manifest, read_transcripts
from eqssl_speech.data.phones import Phone, phones_file, read_phones
from eqssl_speech.error import InputError

NUM_CLIPS = 24


def make_package(tree: Path, *, has_text: bool = True) -> SpeechPackage:
    """Make an unpacked package: good recordings, a copy, an empty file, a short one and one whose text does not fit."""
    rng = np.random.default_rng(7)
    tree.mkdir(parents=True)
    for number in range(NUM_CLIPS):
        samples = rng.uniform(-0.5, 0.5, (22_050, 2)).astype(np.float32)
        soundfile.write(tree / f"{number:02}.wav", samples, 22_050)
    shutil.copy(tree / "03.wav", tree / "90.wav")
    (tree / "91.wav").touch()
    soundfile.write(tree / "92.wav", np.zeros(1_000, np.float32), 16_000)
    soundfile.write(tree / "93.wav", rng.uniform(-0.5, 0.5, 16_000), 16_000)

    def list_clips(fetch: Fetch) -> list[Clip]:
        return [_make_clip(file, has_text) for file in sorted(fetch("toy").glob("*.wav"))]

    return SpeechPackage("toy", "toy", "toys", "none", list_clips, has_text=has_text)


def _make_clip(file: Path, has_text: bool) -> Clip:
    # Every third recording says the same.
    number = int(file.stem)
    text = "x" if number == 93 else f"Sentence {'abcdefgh'[number % 8]}, number one."
    # Two thirds have phones, each of other ones.
    phones = (Phone(0.0, 0.01 * number + 0.1, f"p{number}"),) if number % 3 else None
    return Clip("xx-toy", file.stem, file, text if has_text else None, phones=phones)


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The corpus made of one small package; returns the directory of the package."""
    tree = tmp_path / "tree"
    package = make_package(tree)
    monkeypatch.setattr(debian_speech, "SPEECH_PACKAGES", (package,))
    monkeypatch.setattr(debian_speech, "fetch_package", lambda name, cache: tree)
    fields = {"Package": "toy", "Version": "1.0", "Source": "toys"}
    monkeypatch.setattr(debian_speech, "package_fields", lambda name, cache: fields)
    monkeypatch.setattr(debian_speech, "read_notices", lambda name, tree: [("copyright", "Yes.\n")])
    monkeypatch.setattr(source_job, "MIN_SOURCE_S", 5.0)
    monkeypatch.setattr(source_job, "assign_split", _assign_thirds)
    return tree


def _assign_thirds(key: str) -> str:
    return ("train", "valid", "test")[int(key[:8], 16) % 3]


def hash_tree(directory: Path) -> dict[str, str]:
    """Hash every file below a directory."""
    files = sorted(file for file in directory.rglob("*") if file.is_file())
    return {
        file.relative_to(directory).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
    }


def test_report_counts_what_was_left_out_and_why(toy: Path, tmp_path: Path) -> None:
    report = prepare_debian_speech(tmp_path / "out", num_workers=0)

    (source,) = report.sources
    assert source.left_out == {
        "duplicate": 1,
        "empty file": 1,
        "too short": 1,
        "text does not fit": 1,
    }
    assert sum(source.num_utterances.values()) == NUM_CLIPS
    assert source.total_duration_s == pytest.approx(NUM_CLIPS)
    assert [bad.file.name for bad in source.bad] == ["91.wav"]
    assert report.table()[1][:4] == ["xx-toy", "xx", "toys", "yes"]
    assert report.minutes_by_language(with_text=True) == {"xx": pytest.approx(NUM_CLIPS / 60)}


def test_corpus_is_16_khz_mono_with_text_and_no_content_on_two_sides(
    toy: Path, tmp_path: Path
) -> None:
    prepare_debian_speech(tmp_path / "out", num_workers=0)

    (source,) = load_corpus(tmp_path / "out").sources
    texts, audio, count = [], [], 0
    for split in ("train", "valid", "test"):
        manifest = read_manifest(source.manifest_file(split))
        texts.append(set(read_transcripts(source.directory / f"{split}.wrd", manifest)))
        audio.append({manifest.locate(entry).read_bytes() for entry in manifest.entries})
        for entry in manifest.entries:
            info = soundfile.info(manifest.locate(entry))
            assert (info.samplerate, info.channels) == (16_000, 1)
            assert info.frames == entry.num_samples
            count += 1
    assert count == NUM_CLIPS == len(list(source.directory.rglob("*.flac")))
    assert sum(map(len, texts)) == len(set.union(*texts)) == 8
    assert sum(map(len, audio)) == len(set.union(*audio)) == NUM_CLIPS


def test_every_recording_keeps_its_own_phones(toy: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare_debian_speech(out, num_workers=0)

    def check_phones() -> None:
        (source,) = load_corpus(out).sources
        for split in ("train", "valid", "test"):
            manifest = read_manifest(source.manifest_file(split))
            found = read_phones(phones_file(source, split), manifest)
            numbers = [int(Path(entry.path).stem) for entry in manifest.entries]
            expected = [
                [Phone(0.0, round(0.01 * n + 0.1, 3), f"p{n}")] if n % 3 else None for n in numbers
            ]
            assert found == expected

    check_phones()
    # A corpus that an older version prepared gets them without being read anew.
    for file in out.rglob("*.phones.ctm"):
        file.unlink()
    calls: list[str] = []
    prepare_debian_speech(out, num_workers=0, progress=lambda what, *_: calls.append(what))

    check_phones()
    assert "recordings" not in calls


def test_twice_gives_the_same_bytes_and_the_second_time_reads_nothing(
    toy: Path, tmp_path: Path
) -> None:
    prepare_debian_speech(tmp_path / "a", num_workers=0)
    prepare_debian_speech(tmp_path / "b", num_workers=0)
    first = hash_tree(tmp_path / "a")
    calls: list[tuple[str, int, int]] = []

    prepare_debian_speech(tmp_path / "a", num_workers=0, progress=lambda *c: calls.append(c))

    assert first == hash_tree(tmp_path / "b") == hash_tree(tmp_path / "a")
    assert "recordings" not in {what for what, _, _ in calls}


@pytest.mark.parametrize("num_done", [0, 1, 9, 27])
def test_interrupted_and_started_again_gives_the_same_bytes(
    toy: Path, tmp_path: Path, num_done: int
) -> None:
    prepare_debian_speech(tmp_path / "whole", num_workers=0)

    def interrupt(what: str, done: int, total: int) -> None:
        if what == "recordings" and done > num_done:
            raise KeyboardInterrupt

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        prepare_debian_speech(out, num_workers=0, progress=interrupt)
    # What a killed program may leave: an unfinished file, a line that was cut off, a file less than the journal says.
    (out / "xx-toy/audio/.05.flac.1.tmp").write_bytes(b"half")
    with (out / ".prepare/journals/xx-toy.tsv").open("a") as stream:
        stream.write("17\t16")
    next(iter(sorted((out / "xx-toy/audio").glob("*.flac")))).unlink()

    prepare_debian_speech(out, num_workers=0)

    assert hash_tree(out) == hash_tree(tmp_path / "whole")


def test_journal_of_another_version_is_not_believed(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare_debian_speech(tmp_path / "out", num_workers=0)
    monkeypatch.setattr(
        debian_speech,
        "package_fields",
        lambda name, cache: {"Package": "toy", "Version": "2.0", "Source": "toys"},
    )
    calls: list[str] = []

    prepare_debian_speech(tmp_path / "out", num_workers=0, progress=lambda w, d, t: calls.append(w))

    assert calls.count("recordings") == NUM_CLIPS + 4


def test_small_sources_are_left_out_and_named(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_job, "MIN_SOURCE_S", 60.0)

    report = prepare_debian_speech(tmp_path / "out", num_workers=0)

    assert report.sources == []
    assert "0.4 min after the filters" in report.left_out_sources["xx-toy"]
    assert not (tmp_path / "out/xx-toy").exists()


def test_directory_of_another_corpus_is_refused(toy: Path, tmp_path: Path) -> None:
    (tmp_path / "out/mine").mkdir(parents=True)
    (tmp_path / "out/mine/train.tsv").write_text("precious")

    with pytest.raises(InputError, match="holds the source `mine`"):
        prepare_debian_speech(tmp_path / "out", num_workers=0)

    assert (tmp_path / "out/mine/train.tsv").read_text() == "precious"


def test_formats_that_need_ffmpeg_are_left_out_and_named_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(debian_speech, "ffmpeg_available", lambda: False)
    chosen = [package for package in SPEECH_PACKAGES if package.needs_ffmpeg]

    report = debian_speech.PrepareReport(tmp_path)
    left = debian_speech._leave_out_undecodable(chosen, report)

    assert left == []
    assert len(report.left_out_sources) == 7
    assert all("ffmpeg" in why for why in report.left_out_sources.values())


def test_unknown_package_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="did you mean `festvox-ru`"):
        prepare_debian_speech(tmp_path, packages=["festvox_ru"])


def test_machine_without_debian_tools_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages.shutil, "which", lambda program: None)

    with pytest.raises(InputError, match="Debian or Ubuntu machine"):
        require_debian_tools()
    with pytest.raises(InputError, match="Debian or Ubuntu machine"):
        fetch_package("festvox-ru", tmp_path / "cache")


def test_failed_unpacking_leaves_nothing_that_looks_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "archives").mkdir()
    (tmp_path / "archives/toy_1.0_all.deb").write_bytes(b"no archive")

    def fail(command: list[str], what: str, cwd: Path | None = None) -> str:
        raise InputError(f"{what} failed: not a Debian archive")

    monkeypatch.setattr(packages, "_run", fail)

    with pytest.raises(InputError, match=r"unpacking `toy_1.0_all.deb` failed"):
        fetch_package("toy", tmp_path)
    assert not list((tmp_path / "trees").iterdir())
