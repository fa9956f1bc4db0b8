"""Files, folders and patterns: which recordings they mean, and what their outputs are called."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from eqssl_speech.error import InputError
from eqssl_speech.tasks.transcribe.inputs import find_inputs, require_distinct_outputs


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    names = [
        "b.wav",
        "a b.FLAC",
        "наука/лекция 1.ogg",
        "наука/deep/x.y.mp3",
        "notes.txt",
        ".hidden.wav",
        ".cache/c.wav",
    ]
    for name in names:
        file = tmp_path / "in" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()

    return tmp_path / "in"


def outputs(*arguments: object, fmt: str = "txt") -> list[str]:
    found = find_inputs([str(a) for a in arguments])

    return [file.output_file(Path("out"), fmt).as_posix() for file in found.files]


def test_folder_is_searched_at_any_depth_in_order(folder: Path) -> None:
    found = find_inputs([str(folder)])

    assert [f.path.relative_to(folder).as_posix() for f in found.files] == [
        "a b.FLAC",
        "b.wav",
        "наука/лекция 1.ogg",
        "наука/deep/x.y.mp3",
    ]
    assert found.num_others == 1
    assert found.num_repeated == 0


def test_outputs_keep_the_tree_of_a_folder(folder: Path) -> None:
    assert outputs(folder, fmt="srt") == [
        "out/a b.srt",
        "out/b.srt",
        "out/наука/лекция 1.srt",
        "out/наука/deep/x.y.srt",
    ]


def test_file_is_taken_whatever_it_is_called(folder: Path) -> None:
    assert outputs(folder / "notes.txt", folder / "b.wav") == ["out/notes.txt", "out/b.txt"]


def test_missing_file_is_kept_to_be_named_later(tmp_path: Path) -> None:
    (file,) = find_inputs([str(tmp_path / "nowhere.wav")]).files

    assert file.path == tmp_path / "nowhere.wav"


def test_pattern_keeps_the_tree_below_its_fixed_part(folder: Path) -> None:
    assert outputs(folder / "**" / "*.[mo]*") == [
        "out/наука/deep/x.y.txt",
        "out/наука/лекция 1.txt",
    ]
    assert outputs(folder / "н*") == ["out/наука/лекция 1.txt", "out/наука/deep/x.y.txt"]


def test_relative_pattern_and_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)

    assert outputs("*.wav") == ["out/b.txt"]
    assert outputs("b.wav", "./b.wav", str(folder / "b.wav")) == ["out/b.txt"]
    assert outputs(".")[:2] == ["out/a b.txt", "out/b.txt"]


def test_name_that_looks_like_a_pattern_is_a_file_where_it_exists(folder: Path) -> None:
    (folder / "take [1].wav").touch()

    assert outputs(folder / "take [1].wav") == ["out/take [1].txt"]


def test_repeated_files_are_counted_and_taken_once(folder: Path) -> None:
    found = find_inputs([str(folder), str(folder / "b.wav"), str(folder / "*.wav")])

    assert len(found.files) == 4
    assert found.num_repeated == 2


def test_pattern_without_match_is_an_error_that_names_it(folder: Path) -> None:
    with pytest.raises(InputError, match=r"\*\.opus: the pattern matches no recording"):
        find_inputs([str(folder / "b.wav"), str(folder / "*.opus")])


def test_folder_without_recording_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "x.txt").touch()

    with pytest.raises(InputError, match=r"holds no recording.*\.flac"):
        find_inputs([str(tmp_path)])


def test_same_output_is_refused(folder: Path) -> None:
    (folder / "b.flac").touch()

    files = find_inputs([str(folder)]).files

    with pytest.raises(
        InputError, match=r"b\.flac and .*b\.wav would both be written to out/b\.json"
    ):
        require_distinct_outputs(files, Path("out"), "json")


def test_files_of_one_name_in_two_folders_are_refused_but_not_in_one_tree(folder: Path) -> None:
    for name in ("s1/x.wav", "s2/x.wav"):
        (folder / name).parent.mkdir()
        (folder / name).touch()

    require_distinct_outputs(find_inputs([str(folder)]).files, Path("out"), "txt")

    files = find_inputs([str(folder / "s1" / "x.wav"), str(folder / "s2" / "x.wav")]).files

    with pytest.raises(InputError, match="would both be written"):
        require_distinct_outputs(files, Path("out"), "txt")


def test_name_that_is_not_unicode_is_taken(tmp_path: Path) -> None:
    file = os.fsencode(tmp_path) + b"/caf\xe9.wav"
    Path(os.fsdecode(file)).touch()

    (found,) = find_inputs([str(tmp_path)]).files

    assert os.fsencode(found.path) == file
