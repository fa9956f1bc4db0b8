"""Label files: lines of fairseq's kind, found without reading them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from eqssl_speech.error import InputError
from eqssl_speech.labels import km as km_module
from eqssl_speech.labels.km import KmFile, format_line, index_file, iterate_lines


def test_offsets_and_counts_do_not_depend_on_the_blocks_that_are_looked_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ["1 22 333", "", "4", "", "", "55 6 7 88", "9 10"]
    file = tmp_path / "x.km"
    file.write_text("".join(f"{line}\n" for line in lines))
    starts = np.cumsum([0, *(len(line) + 1 for line in lines)]).tolist()

    for size in (1, 2, 3, 5, 1000):
        monkeypatch.setattr(km_module, "_CHUNK_NUM_BYTES", size)
        index = index_file(file)

        assert index.offsets.tolist() == starts
        assert index.counts.tolist() == [3, 0, 1, 0, 0, 4, 2]


def test_lines_are_read_as_they_were_written(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    utterances = [rng.integers(2000, size=n) for n in (1, 0, 500, 0, 30)]
    file = tmp_path / "x.km"
    file.write_text("".join(f"{format_line(labels)}\n" for labels in utterances))

    km_file = KmFile(file, index_file(file))

    for line_nr, labels in enumerate(utterances):
        assert km_file.count(line_nr) == len(labels)
        np.testing.assert_array_equal(km_file.read(line_nr), labels)

    for read, labels in zip(iterate_lines(file), utterances, strict=True):
        np.testing.assert_array_equal(read, labels)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"x\.km: there is no such label file; copy the directory"):
        index_file(tmp_path / "x.km")
    with pytest.raises(InputError, match=r"cannot be read \(Is a directory\)"):
        index_file(tmp_path)


OPEN_FILES = Path("/proc/self/fd")


@pytest.mark.skipif(not OPEN_FILES.is_dir(), reason="counts what Linux lists as open")
def test_no_file_stays_open_however_many_are_read(tmp_path: Path) -> None:
    files = []
    for number in range(5):
        files.append(tmp_path / f"{number}.km")
        files[-1].write_text("1 2 3\n")

    before = len(list(OPEN_FILES.iterdir()))
    opened = [KmFile(file, index_file(file)) for file in files]
    for km_file in opened:
        assert km_file.read(0).tolist() == [1, 2, 3]

    assert len(list(OPEN_FILES.iterdir())) == before


def test_why_a_line_cannot_be_read_is_said(tmp_path: Path) -> None:
    file = tmp_path / "x.km"
    file.write_text("1 2\n3\n")
    km_file = KmFile(file, index_file(file))

    file.unlink()
    with pytest.raises(
        InputError, match=r"x\.km:2: the line cannot be read \(No such file or directory\); put the"
    ):
        km_file.read(1)

    file.mkdir()
    with pytest.raises(InputError, match=r"the line cannot be read \(Is a directory\)"):
        km_file.read(1)
