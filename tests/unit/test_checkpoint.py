"""Tensors are read from runs, sharded or not, and from files, of which none gets to run code."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from eqssl_speech.error import InputError
from eqssl_speech.models.checkpoint import (
    Inert,
    find_checkpoint,
    load_content,
    merge_shards,
    read_run_tensors,
    read_tensor_file,
)
from eqssl_speech.models.formats.fairseq import find_setting


def make_tensors(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    return {
        "weight": torch.randn(7, 3, generator=generator),
        "bias": torch.randn(7, generator=generator),
        "row": torch.randn(1, 4, generator=generator),
        "num_updates": torch.tensor(seed + 5),
    }


def write_step(root: Path, step_nr: int, shards: list[dict[str, Tensor]] | None = None) -> None:
    folder = root / "checkpoints" / f"step_{step_nr}" / "model" / "pp_00" / "tp_00"
    folder.mkdir(parents=True)

    for number, shard in enumerate(shards or [make_tensors(step_nr)]):
        torch.save(shard, folder / f"sdp_{number:02}.pt")


def assert_equal(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert torch.equal(tensor, right[name]), name


def split(
    tensors: dict[str, Tensor], num_shards: int, *, keep_empty: bool
) -> list[dict[str, Tensor]]:
    """What FSDP2 leaves on each rank: even parts by `chunk`, of which the last ones may be empty."""
    shards: list[dict[str, Tensor]] = [{} for _ in range(num_shards)]

    for name, tensor in tensors.items():
        parts = [tensor] * num_shards if tensor.dim() == 0 else list(tensor.chunk(num_shards))

        for number, shard in enumerate(shards):
            if number < len(parts):
                shard[name] = parts[number].clone()
            elif keep_empty:
                shard[name] = tensor[:0].clone()

    return shards


@pytest.mark.parametrize("keep_empty", [True, False])
@pytest.mark.parametrize("num_shards", [1, 2, 3, 5])
def test_shards_are_put_together(tmp_path: Path, num_shards: int, keep_empty: bool) -> None:
    tensors = make_tensors(1)
    shards = split(tensors, num_shards, keep_empty=keep_empty)

    assert_equal(merge_shards(shards), tensors)

    write_step(tmp_path, 10, shards)
    assert_equal(read_run_tensors(find_checkpoint(tmp_path)), tensors)


def test_the_last_step_is_found_and_its_number(tmp_path: Path) -> None:
    for step_nr in (9, 100, 20):
        write_step(tmp_path, step_nr)
    (tmp_path / "checkpoints" / "step_300.tmp" / "model").mkdir(parents=True)
    (tmp_path / "checkpoints" / "step_200").mkdir()

    for path in (tmp_path, tmp_path / "checkpoints"):
        found = find_checkpoint(path)
        assert found.step_nr == 100
        assert_equal(read_run_tensors(found), make_tensors(100))


def test_the_step_of_the_best_score_is_found(tmp_path: Path) -> None:
    for step_nr in (10, 20, 30):
        write_step(tmp_path, step_nr)

    # As the host writes an error rate, of which less is better; the step of the best of all is gone.
    scores = tmp_path / "checkpoints" / "scores"
    scores.mkdir()
    for step_nr, score in ((5, -1.0), (10, -30.5), (20, -9.25), (30, -101.0)):
        (scores / f"step_{step_nr}.txt").write_text(f"{score}\n")

    assert find_checkpoint(tmp_path).step_nr == 20
    assert find_checkpoint(tmp_path, step=30).step_nr == 30


def test_a_step_directory_is_a_checkpoint(tmp_path: Path) -> None:
    write_step(tmp_path, 10)
    write_step(tmp_path, 20)

    step_dir = tmp_path / "checkpoints" / "step_10"
    for path in (step_dir, step_dir / "model"):
        found = find_checkpoint(path)
        assert found.step_nr == 10
        assert_equal(read_run_tensors(found), make_tensors(10))


def test_the_configuration_is_found_beside_the_steps(tmp_path: Path) -> None:
    write_step(tmp_path, 10)
    assert find_checkpoint(tmp_path).config is None

    file = tmp_path / "checkpoints" / "model.yaml"
    file.write_text("name: checkpoint\nmodel_family: f\nmodel_config:\n  a: 1\n")

    for path in (tmp_path, tmp_path / "checkpoints" / "step_10"):
        found = find_checkpoint(path)
        assert (found.family, found.config) == ("f", {"a": 1})

    for damaged in ("model_family: f\n", "- [", "7"):
        file.write_text(damaged)
        with pytest.raises(InputError, match=r"model\.yaml: is damaged"):
            find_checkpoint(tmp_path)


def test_a_directory_without_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()

    with pytest.raises(InputError, match="holds no checkpoint; give the output directory of a run"):
        find_checkpoint(tmp_path)


def test_an_unknown_step_is_refused(tmp_path: Path) -> None:
    write_step(tmp_path, 10)
    write_step(tmp_path, 9)

    with pytest.raises(InputError, match="no checkpoint of step 7; there are those of 9, 10"):
        find_checkpoint(tmp_path, step=7)


def test_missing_shards_are_noticed(tmp_path: Path) -> None:
    write_step(tmp_path, 10, split(make_tensors(), 3, keep_empty=True))
    folder = tmp_path / "checkpoints" / "step_10" / "model" / "pp_00" / "tp_00"

    (folder / "sdp_01.pt").unlink()
    with pytest.raises(InputError, match=r"parts .* missing \(there are sdp_00.pt, sdp_02.pt\)"):
        read_run_tensors(find_checkpoint(tmp_path))

    (folder.parent / "tp_01").mkdir()
    with pytest.raises(InputError, match="tensor parallelism"):
        read_run_tensors(find_checkpoint(tmp_path))


@pytest.mark.parametrize("key", [None, "model", "state_dict", "model_state_dict"])
def test_a_file_of_tensors_is_read(tmp_path: Path, key: str | None) -> None:
    tensors = make_tensors()
    torch.save(tensors if key is None else {key: tensors, "epoch": 3}, tmp_path / "a.pt")

    assert_equal(read_tensor_file(tmp_path / "a.pt"), tensors)


def test_other_kinds_of_files_of_tensors_are_read(tmp_path: Path) -> None:
    tensors = make_tensors()

    save_file(tensors, tmp_path / "a.safetensors")
    assert_equal(read_tensor_file(tmp_path / "a.safetensors"), tensors)

    torch.save(tensors, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert_equal(read_tensor_file(tmp_path / "old.pt"), tensors)


class Code:
    """Makes a directory when it is unpickled."""

    def __init__(self, witness: Path) -> None:
        self._witness = witness

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self._witness),)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_file_is_not_run(tmp_path: Path, zipped: bool) -> None:
    content = {"model": make_tensors(), "code": Code(tmp_path / "witness")}
    torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)

    with pytest.raises(
        InputError,
        match=r"holds more than tensors \(`\w+\.mkdir`\), and reading that would run code",
    ):
        read_tensor_file(tmp_path / "a.pt")

    assert not (tmp_path / "witness").exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_settings_of_fairseq_are_read_without_fairseq(tmp_path: Path, zipped: bool) -> None:
    content = {"args": argparse.Namespace(layers=3), "model": make_tensors()}
    torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)

    assert_equal(read_tensor_file(tmp_path / "a.pt"), make_tensors())
    assert find_setting(load_content(tmp_path / "a.pt"), "layers") == 3


def test_objects_of_fairseq_are_read_and_do_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dictionary lies beside the tensors of HuBERT; its class need not be there, and is not called if it is."""
    for name in ("fairseq", "fairseq.data", "fairseq.data.dictionary"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))

    module = sys.modules["fairseq.data.dictionary"]
    kls = type("Dictionary", (), {"__module__": module.__name__})
    monkeypatch.setattr(module, "Dictionary", kls, raising=False)

    dictionary = kls()
    dictionary.symbols = ["<s>", "<pad>"]
    torch.save({"task_state": [dictionary], "model": make_tensors()}, tmp_path / "a.pt")

    def fail(self: object, *args: object) -> None:
        raise AssertionError("called")

    monkeypatch.setattr(kls, "__init__", fail)

    (loaded,) = load_content(tmp_path / "a.pt")["task_state"]  # type: ignore[index]

    assert isinstance(loaded, Inert)
    assert not isinstance(loaded, kls)
    assert loaded.symbols == ["<s>", "<pad>"]  # type: ignore[attr-defined]
    assert_equal(read_tensor_file(tmp_path / "a.pt"), make_tensors())


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_a_file_that_is_no_file_of_tensors_is_refused(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"a.{suffix}"
    torch.save(make_tensors(), tmp_path / "whole.pt")

    for content in (b"", b"hello world, this is text", (tmp_path / "whole.pt").read_bytes()[:300]):
        file.write_bytes(content)
        with pytest.raises(InputError, match=r"is not a .*file.*damaged"):
            read_tensor_file(file)

    file.unlink()
    with pytest.raises(InputError, match="cannot be read"):
        read_tensor_file(file)


@pytest.mark.parametrize("content", [[torch.ones(2)], {}, {"epoch": 3}])
def test_a_file_without_named_tensors_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "a.pt")

    with pytest.raises(InputError, match="holds no tensors by name"):
        read_tensor_file(tmp_path / "a.pt")
