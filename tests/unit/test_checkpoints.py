"""Checkpoints are whole or not there, and compared before they are loaded."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest
import torch
from checkpoint_parts import (
    Later,
    flip,
    list_files,
    make_manager,
    make_parts,
    save,
    write_as_older_version,
)
from fairseq2.file_system import LocalFileSystem

from eqssl_speech.data.readers import NUM_UTTERANCES
from eqssl_speech.error import InputError
from eqssl_speech.models.checksums import find_damage, read_checksums
from eqssl_speech.tasks.errors import CheckpointSaveError


@pytest.fixture(scope="module")
def three_checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("checkpoints")

    manager = make_manager(directory)
    for step_nr in (2, 4, 6):
        save(manager, step_nr)

    return directory


@pytest.fixture
def directory(tmp_path: Path, three_checkpoints: Path) -> Path:
    """Return a directory with the checkpoints of steps 2, 4 and 6."""
    return Path(shutil.copytree(three_checkpoints, tmp_path / "checkpoints"))


def test_what_is_saved_is_loaded(directory: Path) -> None:
    manager = make_manager(directory)
    parts = make_parts(0)

    manager.load_trainer_state(6, parts[0])
    manager.load_model_state(6, parts[1])
    manager.load_optimizer_state(6, parts[2])
    manager.load_data_reader_state(6, parts[3])

    for part, expected in zip(parts, make_parts(6)):
        torch.testing.assert_close(part.state, expected.state, rtol=0, atol=0)


@pytest.mark.parametrize("number", range(5))
@pytest.mark.parametrize("damage", ["cut", "grown", "altered", "missing"])
def test_a_damaged_file_is_named_and_the_checkpoint_before_it_offered(
    directory: Path, damage: str, number: int
) -> None:
    file = list_files(directory / "step_6")[number]

    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-1])
    elif damage == "grown":
        file.write_bytes(file.read_bytes() + b"\n")
    elif damage == "altered":
        flip(file, file.stat().st_size // 2)
    else:
        file.unlink()

    with pytest.raises(InputError) as info:
        make_manager(directory)

    message = str(info.value)
    step_dir = directory / "step_6"

    assert type(info.value) is InputError  # By which the host finds what to do.
    assert message.startswith(f"{file}: is ")
    assert f"run `mv {step_dir} {step_dir}.damaged` and the same command again" in message
    assert message.endswith("to resume from step 4, which is whole.")

    step_dir.rename(f"{step_dir}.damaged")

    assert make_manager(directory).maybe_get_last_step_number(exclude_model_only=True) == 4


def test_what_is_damaged_too_is_not_offered(directory: Path) -> None:
    for step_nr in (4, 6):
        flip(list_files(directory / f"step_{step_nr}")[2], 300)

    with pytest.raises(InputError, match=r"step_6.damaged && mv .*step_4 .*to resume from step 2,"):
        make_manager(directory)

    flip(list_files(directory / "step_2")[2], 300)

    with pytest.raises(InputError, match="again to start from the beginning, as no checkpoint"):
        make_manager(directory)


def test_a_corpus_that_has_changed_is_mentioned(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manager, reader = make_manager(directory), make_parts(6)[3]

    manager.load_data_reader_state(6, reader)
    assert not caplog.records

    reader.state[NUM_UTTERANCES] = [3, 49]
    manager.load_data_reader_state(6, reader)

    (record,) = caplog.records
    assert (
        "There are 52 utterances to train on, and there were 53 when step 6" in record.getMessage()
    )


@pytest.mark.parametrize("name", ["data_reader/dp_00", "optimizer/pp_00/tp_00/sdp_00"])
def test_a_rank_whose_file_is_missing_is_not_taken_for_none(tmp_path: Path, name: str) -> None:
    parts = make_parts(2)
    write_as_older_version(tmp_path, 2, parts)

    manager = make_manager(tmp_path)

    # Nobody else can know: there are no checksums.
    file = tmp_path / "step_2" / f"{name}.pt"
    file.rename(file.with_name("elsewhere"))

    with pytest.raises(InputError, match=rf"{file}: is missing; put a copy of it there"):
        manager.load_model_state(2, parts[1])


def test_a_checkpoint_whose_states_are_all_gone_is_not_taken_for_a_model(directory: Path) -> None:
    shutil.rmtree(directory / "step_6" / "trainer")

    with pytest.raises(InputError, match=r"trainer/rank_00.pt: is missing; .*from step 4"):
        make_manager(directory)


def test_a_checkpoint_of_an_older_version_is_loaded_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_as_older_version(tmp_path, 4, make_parts(4))

    manager = make_manager(tmp_path)
    assert "was written by an older version, without checksums" in caplog.text

    parts = make_parts(0)
    manager.load_trainer_state(4, parts[0])
    manager.load_optimizer_state(4, parts[2])
    for number in (0, 2):
        torch.testing.assert_close(parts[number].state, make_parts(4)[number].state, rtol=0, atol=0)

    # The next one has a list, and then the one before it is offered as it is.
    save(manager, 6)
    flip(list_files(tmp_path / "step_6")[1], 0)
    with pytest.raises(InputError, match="to resume from step 4, which has no checksums"):
        make_manager(tmp_path)


def test_a_damaged_file_of_an_older_version_is_named(tmp_path: Path) -> None:
    write_as_older_version(tmp_path, 2, make_parts(2))
    write_as_older_version(tmp_path, 4, make_parts(4))

    file = tmp_path / "step_4" / "trainer" / "rank_00.pt"
    file.write_bytes(file.read_bytes()[:-100])

    with pytest.raises(InputError, match=r"rank_00.pt: is damaged, or .*to resume from step 2"):
        make_manager(tmp_path).load_trainer_state(4, make_parts(0)[0])


def test_a_kill_while_saving_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    save(make_manager(tmp_path), 2)

    manager = make_manager(tmp_path, Later())
    manager.save_checkpoint(4, *make_parts(4))
    assert manager.is_saving
    assert (tmp_path / "step_4.tmp").is_dir()

    again = make_manager(tmp_path)
    assert again.get_step_numbers() == [2]
    assert not (tmp_path / "step_4.tmp").exists()


def test_a_kill_while_deleting_leaves_nothing_that_looks_like_a_checkpoint(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = make_manager(directory)

    def stop(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(LocalFileSystem, "remove_directory", stop)
    with pytest.raises(KeyboardInterrupt):
        manager.delete_checkpoint(2)

    assert manager.get_step_numbers() == [4, 6]

    make_manager(directory)
    assert sorted(p.name for p in directory.glob("step_*")) == ["step_4", "step_6"]


def test_the_list_comes_before_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def move(self: object, old: Path, new: Path) -> None:
        assert read_checksums(old) is not None
        assert find_damage(old) is None
        raise KeyboardInterrupt

    monkeypatch.setattr(LocalFileSystem, "move", move)
    with pytest.raises(KeyboardInterrupt):
        save(make_manager(tmp_path), 2)


def fill_disk(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Have files of a name not be brought to the disk."""
    fsync = os.fsync

    def fail(descriptor: int) -> None:
        path = str(Path(f"/proc/self/fd/{descriptor}").readlink())
        if name in path:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fail)


@pytest.mark.parametrize("name", ["rank_00.pt", "sdp_00.pt", "dp_00.pt", "SHA256SUMS"])
def test_a_full_disk_leaves_the_checkpoint_before_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    manager = make_manager(tmp_path)
    save(manager, 2)

    with monkeypatch.context() as patch:
        fill_disk(patch, name)
        with pytest.raises(CheckpointSaveError) as info:
            save(manager, 4)

    assert ": cannot be written (No space left on device); free space and run" in str(info.value)
    assert str(info.value).endswith("which resumes from step 2.")
    assert sorted(p.name for p in tmp_path.glob("step_*")) == ["step_2"]
    assert find_damage(tmp_path / "step_2") is None

    save(manager, 4)
    assert find_damage(tmp_path / "step_4") is None


def test_an_error_of_the_writing_thread_comes_up_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = Later()
    manager = make_manager(tmp_path, pool)
    manager.save_checkpoint(2, *make_parts(2))

    with monkeypatch.context() as patch:
        fill_disk(patch, "sdp_00.pt")
        pool.run()

    with pytest.raises(CheckpointSaveError, match="which starts from the beginning"):
        manager.maybe_complete_save_operation()

    assert not manager.is_saving
    assert manager.maybe_complete_save_operation() is None


def test_a_mistake_in_a_state_is_not_taken_for_one_of_the_disk(tmp_path: Path) -> None:
    parts = make_parts(2)
    parts[0].state["function"] = lambda: 0  # Can be copied, but not written.

    with pytest.raises(Exception, match="pickle") as info:
        make_manager(tmp_path).save_checkpoint(2, *parts, blocking=True)

    assert not isinstance(info.value, CheckpointSaveError)
    assert not list(tmp_path.glob("step_*"))


def test_callbacks_learn_what_the_trainer_asked_for(tmp_path: Path) -> None:
    calls: list[object] = []

    save(
        make_manager(tmp_path),
        2,
        ready_callback=lambda *args: calls.append(("ready", *args)),
        saved_callback=lambda *args: calls.append(("saved", *args, (tmp_path / "step_2").exists())),
    )

    assert calls == [("ready", 2, True), ("saved", 2, True, True)]


def test_of_a_checkpoint_of_which_the_model_is_kept_the_list_is_kept_too(directory: Path) -> None:
    manager = make_manager(directory)
    manager.delete_checkpoint(4, keep_model=True)

    assert list(read_checksums(directory / "step_4") or {}) == ["model/pp_00/tp_00/sdp_00.pt"]
    assert find_damage(directory / "step_4") is None
    assert manager.get_step_numbers(exclude_model_only=True) == [2, 6]

    manager.save_model_only(8, make_parts(8)[1], blocking=True)
    assert make_manager(directory).get_step_numbers(exclude_model_only=True) == [2, 6]


def test_a_score_is_read_as_it_was_written_and_named_if_it_is_damaged(directory: Path) -> None:
    manager = make_manager(directory)
    manager.save_score(4, -1.25)
    manager.save_score(6, -2.5)
    assert manager.load_scores() == [(-1.25, 4), (-2.5, 6)]

    (directory / "scores" / "step_4.txt").write_text("")
    with pytest.raises(InputError, match=r"scores/step_4.txt: holds no number; write"):
        manager.load_scores()
