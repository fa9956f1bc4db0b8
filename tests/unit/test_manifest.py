"""Manifests: what fairseq writes is read, what is written is read back, and a mistake is named by its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from eqssl_speech.data.manifest import (
    Manifest,
    ManifestEntry,
    read_manifest,
    read_transcripts,
    replace_text,
    write_manifest,
)
from eqssl_speech.error import InputError


def write(file: Path, *lines: str) -> Path:
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")

    return file


def test_manifest_of_fairseq_is_read_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    file = write(
        tmp_path / "train.tsv", str(tmp_path / "clips"), "a/b.flac\t16000", "c d.wav:400:320\t320"
    )

    manifest = read_manifest(file)

    assert manifest.root == tmp_path / "clips"
    assert manifest.entries == (
        ManifestEntry("a/b.flac", 16000),
        ManifestEntry("c d.wav", 320, offset=400, is_slice=True),
    )
    assert manifest.locate(manifest.entries[1]) == tmp_path / "clips" / "c d.wav"
    assert manifest.describe_line(1) == f"{file}:3"


def test_relative_audio_root_is_relative_to_the_manifest(tmp_path: Path) -> None:
    (tmp_path / "x" / "audio").mkdir(parents=True)
    file = write(tmp_path / "x" / "train.tsv", "audio", "a.wav\t5")

    manifest = read_manifest(file)

    assert manifest.locate(manifest.entries[0]) == tmp_path / "x" / "audio" / "a.wav"


def test_windows_line_ends_byte_order_mark_and_blank_last_lines_are_read(tmp_path: Path) -> None:
    file = tmp_path / "train.tsv"
    file.write_bytes(b"\xef\xbb\xbf.\r\na.wav\t5\r\n\r\n\n")

    assert read_manifest(file).entries == (ManifestEntry("a.wav", 5),)


def test_unicode_line_separator_in_a_name_does_not_split_the_line(tmp_path: Path) -> None:
    entry = ManifestEntry("a\u2028b\x85c.wav", 7)

    write_manifest(tmp_path / "m.tsv", ".", [entry])

    assert read_manifest(tmp_path / "m.tsv").entries == (entry,)


def test_manifest_survives_the_round_trip_with_the_same_bytes(tmp_path: Path) -> None:
    entries = [
        ManifestEntry("été/ß.flac", 16000),
        ManifestEntry("x:y.wav", 3),
        ManifestEntry("x.ogg", 12, offset=0, is_slice=True),
        ManifestEntry("x.ogg", 30, offset=12, is_slice=True),
    ]
    first, second = tmp_path / "a.tsv", tmp_path / "b.tsv"

    write_manifest(first, ".", entries)
    manifest = read_manifest(first)
    write_manifest(second, ".", manifest.entries)

    assert list(manifest.entries) == entries
    assert first.read_bytes() == second.read_bytes()
    assert first.read_bytes().startswith(".\nété/ß.flac\t16000\n".encode())


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("a.wav", "has no length"),
        ("a.wav\t", "has no length"),
        ("a.wav 16000", "has no length"),
        ("a.wav\t1.5", "whole number"),
        ("a.wav\t1_000", "whole number"),
        ("a.wav\t١٢", "whole number"),
        ("a.wav\tlong", "whole number"),
        ("a.wav\t0", "greater than 0, but is 0"),
        ("a.wav\t-3", "greater than 0, but is -3"),
        ("a.wav\t5\t6", "3 columns"),
        ("\t5", "names no audio file"),
        ("", "names no audio file"),
        ("a.wav:10:20\t30", "selects 20 samples"),
    ],
)
def test_malformed_line_is_named(tmp_path: Path, line: str, fault: str) -> None:
    file = write(tmp_path / "train.tsv", ".", "good.wav\t5", line, "good.wav\t6")

    with pytest.raises(InputError, match=fault) as info:
        read_manifest(file)

    assert str(info.value).startswith(f"{file}:3: ")
    assert "\n" not in str(info.value)


def test_missing_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no\.tsv: there is no such manifest; .*eqssl prepare"):
        read_manifest(tmp_path / "no.tsv")


def test_directory_in_place_of_a_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_manifest(tmp_path)


def test_missing_audio_root_is_named(tmp_path: Path) -> None:
    file = write(tmp_path / "train.tsv", str(tmp_path / "gone"), "a.wav\t5")

    with pytest.raises(InputError, match=r"train\.tsv:1: the audio root .*gone does not exist"):
        read_manifest(file)


def test_manifest_without_its_root_line_is_named(tmp_path: Path) -> None:
    file = write(tmp_path / "train.tsv", "a.wav\t5", "b.wav\t5")

    with pytest.raises(InputError, match=r"train\.tsv:1: the first line must be the audio root"):
        read_manifest(file)


@pytest.mark.parametrize(
    ("content", "fault"), [("", "the manifest is empty"), (".\n", "no utterance")]
)
def test_empty_manifest_is_refused(tmp_path: Path, content: str, fault: str) -> None:
    file = tmp_path / "train.tsv"
    file.write_text(content)

    with pytest.raises(InputError, match=fault):
        read_manifest(file)


def test_manifest_that_is_not_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "train.tsv"
    file.write_bytes(b".\n\xff\xfe.wav\t5\n")

    with pytest.raises(InputError, match="not UTF-8"):
        read_manifest(file)


@pytest.mark.parametrize(
    "entry",
    [
        ManifestEntry("a\tb.wav", 5),
        ManifestEntry("a\nb.wav", 5),
        ManifestEntry("", 5),
        ManifestEntry("a.wav:1:2", 5),
        ManifestEntry("a.wav", 0),
        ManifestEntry("a.wav", 5, offset=-1, is_slice=True),
        ManifestEntry("a.wav", 5, offset=2),
    ],
)
def test_entry_that_could_not_be_read_back_is_not_written(
    tmp_path: Path, entry: ManifestEntry
) -> None:
    with pytest.raises(InputError):
        write_manifest(tmp_path / "m.tsv", ".", [ManifestEntry("ok.wav", 1), entry])

    assert list(tmp_path.iterdir()) == []


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "m.tsv"
    replace_text(file, "old\n")

    with pytest.raises(UnicodeEncodeError):
        replace_text(file, "new \udc80\n")

    assert file.read_text() == "old\n"
    assert list(tmp_path.iterdir()) == [file]


def test_write_that_fails_at_the_end_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "m.tsv").mkdir()

    with pytest.raises(OSError, match=r"m\.tsv"):
        replace_text(tmp_path / "m.tsv", "new\n")

    assert [file.name for file in tmp_path.iterdir()] == ["m.tsv"]


def make_manifest(tmp_path: Path, count: int) -> Manifest:
    file = tmp_path / "train.tsv"
    write_manifest(file, ".", [ManifestEntry(f"{i}.wav", 5) for i in range(count)])

    return read_manifest(file)


def test_transcripts_are_read_line_by_line_even_where_one_is_empty(tmp_path: Path) -> None:
    manifest = make_manifest(tmp_path, 4)
    file = tmp_path / "train.wrd"
    file.write_bytes("guten tag\n\nça va\u2028bien\r\n\n".encode())

    assert read_transcripts(file, manifest) == ["guten tag", "", "ça va\u2028bien", ""]


@pytest.mark.parametrize("text", ["one\n", "one\ntwo\nthree\n", ""])
def test_transcripts_of_another_count_are_refused(tmp_path: Path, text: str) -> None:
    manifest = make_manifest(tmp_path, 2)
    file = tmp_path / "train.wrd"
    file.write_text(text)

    count = text.count("\n")
    with pytest.raises(InputError, match=rf"train\.wrd: has {count} lines, but .* 2 utterances"):
        read_transcripts(file, manifest)


def test_missing_transcripts_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"train\.wrd: there is no such transcript file"):
        read_transcripts(tmp_path / "train.wrd", make_manifest(tmp_path, 1))
