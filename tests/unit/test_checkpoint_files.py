"""The files of a checkpoint are listed with their checksums, and loaded without running code."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from checkpoint_parts import flip, list_files, make_manager, make_parts, save
from fairseq2.io import TensorFileDumpOptions

from eqssl_speech.error import InputError
from eqssl_speech.models.checkpoint import find_checkpoint, read_run_tensors
from eqssl_speech.models.checksums import (
    DamagedFileError,
    FileChecksum,
    read_checksums,
    write_checksums,
)
from eqssl_speech.tasks.checkpoint_files import StateFileDumper, StateFileLoader


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Return a directory with the checkpoint of step 6."""
    save(make_manager(tmp_path / "checkpoints"), 6)

    return tmp_path / "checkpoints"


def test_a_list_is_read_as_it_was_written(tmp_path: Path) -> None:
    checksums = {"a b/c.pt": FileChecksum(3, "0" * 64), "ä.pt": FileChecksum(0, "f" * 64)}

    assert read_checksums(tmp_path) is None
    write_checksums(tmp_path, checksums)
    assert read_checksums(tmp_path) == checksums


class Code:
    """Makes a directory when it is unpickled."""

    def __init__(self, witness: Path) -> None:
        self._witness = witness

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self._witness),)


@dataclass
class Position:
    """A class that is not PyTorch's."""

    step_nr: int


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_that_wants_code_is_refused(tmp_path: Path, protocol: int, zipped: bool) -> None:
    file = tmp_path / "a.pt"

    for content in (Code(tmp_path / "witness"), Position(3)):
        torch.save({"a": content}, file, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)  # fmt: skip

        with pytest.raises(DamagedFileError) as info:
            StateFileLoader().load(file)

        assert str(info.value).startswith(f"{file}: ")
        if zipped:
            assert "and reading that could run code of the file" in str(info.value)

    assert not (tmp_path / "witness").exists()


def test_a_program_in_place_of_a_state_is_refused(tmp_path: Path) -> None:
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "a.pt")

    with pytest.raises(DamagedFileError, match=r"a.pt: "):
        StateFileLoader().load(tmp_path / "a.pt")


def test_states_are_written_so_that_they_can_be_read_without_code(tmp_path: Path) -> None:
    file = tmp_path / "a.pt"
    state = make_parts(1)[0].state

    dumper = StateFileDumper()
    dumper.dump(state, file, TensorFileDumpOptions(pickle_protocol=5))

    torch.testing.assert_close(torch.load(file, weights_only=True), state, rtol=0, atol=0)
    assert list(dumper.take_checksums()) == [file]
    assert dumper.take_checksums() == {}


def test_the_list_names_each_file_and_is_one_that_sha256sum_takes(directory: Path) -> None:
    checksums = read_checksums(directory / "step_6")

    files = [f.relative_to(directory / "step_6").as_posix() for f in list_files(directory / "step_6")]  # fmt: skip
    assert checksums is not None
    assert sorted([*checksums, "SHA256SUMS"]) == files
    assert len(files) == 5

    subprocess.run(["sha256sum", "--strict", "-c", "SHA256SUMS"], cwd=directory / "step_6", check=True)  # fmt: skip


def test_a_damaged_list_is_noticed_wherever_it_is_damaged(directory: Path) -> None:
    file = directory / "step_6" / "SHA256SUMS"
    whole = file.read_bytes()

    for position in range(0, len(whole), 7):
        flip(file, position)
        with pytest.raises(DamagedFileError, match="SHA256SUMS: is cut off or altered"):
            read_checksums(file.parent)

        file.write_bytes(whole[:position])
        with pytest.raises(DamagedFileError, match="SHA256SUMS: is cut off or altered"):
            read_checksums(file.parent)

        file.write_bytes(whole)


def test_tensors_of_a_damaged_checkpoint_are_not_read(directory: Path) -> None:
    found = find_checkpoint(directory, 6)
    assert list(read_run_tensors(found)) == ["weight"]

    # Of the rest nothing is needed.
    (directory / "step_6" / "trainer" / "rank_00.pt").unlink()
    read_run_tensors(found)

    flip(found.model_dir / "pp_00" / "tp_00" / "sdp_00.pt", 700)
    with pytest.raises(InputError, match=r"sdp_00.pt: is altered .*; put a copy of it there, or"):
        read_run_tensors(found)
