"""The tensors of a checkpoint: of a run of fairseq2's trainer, sharded or not, or of a single file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import PickleError, UnpicklingError
from typing import Any, Final, final

import torch
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from eqssl_speech.error import InputError
from eqssl_speech.models.checksums import find_damage

TENSOR_FILE_SUFFIXES: Final = (".pt", ".pth", ".bin", ".safetensors")
"""The kinds of files that tensors are read from."""

MODEL_FILE: Final = "model.yaml"
"""What the host writes of a model beside its checkpoints."""

_WRAPPING_KEYS: Final = ("model", "state_dict", "model_state_dict")

_PLAIN_GLOBALS: Final = ("argparse.Namespace", "typing.Any")
"""What settings of fairseq refer to besides classes of fairseq and of omegaconf."""

_SHARD: Final = re.compile(r"sdp_([0-9]+)\.pt")


@final
@dataclass(frozen=True)
class RunCheckpoint:
    """One step's checkpoint of a run."""

    model_dir: Path
    """The directory ``step_N/model``."""

    step_nr: int | None
    """The number of the step, if the directory's name says it."""

    family: str | None
    """The model's family; ``None`` if there is no ``model.yaml`` beside the steps."""

    config: Mapping[str, object] | None
    """The model's configuration as fairseq2 wrote it; ``None`` if there is no ``model.yaml`` beside the steps."""

    @property
    def run_dir(self) -> Path | None:
        """The output directory of the run; ``None`` if the step does not lie where a run has it."""
        for model_dir in (self.model_dir.absolute(), self.model_dir.resolve()):
            checkpoints = model_dir.parent.parent

            if checkpoints.name == "checkpoints":
                return checkpoints.parent

        return None


def find_checkpoint(path: Path, step: int | None = None) -> RunCheckpoint:
    """Find the checkpoint in a directory; no tensor is read.

    :param path: The output directory of a run, its ``checkpoints``, a ``step_N`` in it, or the ``model`` in that.
    :param step: The step of a run; by default that of the best score, or the last where none has one.
    :raises InputError: If there is no such checkpoint.
    """
    if (path / "pp_00").is_dir():
        return _describe(path)
    if (path / "model" / "pp_00").is_dir():
        return _describe(path / "model")

    root = path / "checkpoints" if (path / "checkpoints").is_dir() else path

    steps = {
        int(directory.name[5:]): directory / "model"
        for directory in root.glob("step_*")
        if directory.name[5:].isdecimal() and (directory / "model").is_dir()
    }
    if not steps:
        raise InputError(
            f"{path}: holds no checkpoint; give the output directory of a run, after its first checkpoint "
            "(`regime.checkpoint_every_n_steps`), or one of its step_N directories."
        )

    if step is None:
        step = _choose_step(root, sorted(steps))
    elif step not in steps:
        raise InputError(
            f"{path}: there is no checkpoint of step {step}; "
            f"there are those of {', '.join(map(str, sorted(steps)))}."
        )

    return _describe(steps[step])


def holds_steps(path: Path) -> bool:
    """Whether there are checkpoints in a directory, of which a step can be chosen.

    :param path: As for :func:`find_checkpoint`.
    """
    return (path / "checkpoints").is_dir() or any(path.glob("step_*"))


def read_run_tensors(checkpoint: RunCheckpoint) -> dict[str, Tensor]:
    """Read the tensors of a run's model, on the CPU, put together if they are sharded over ranks.

    :raises InputError: If a file is missing, cannot be read, or is not as it was written.
    """
    model_dir = checkpoint.model_dir

    damage = find_damage(model_dir.parent, "model/")
    if damage is not None:
        raise InputError(f"{damage}; put a copy of it there, or choose another step.")

    if sorted(d.name for d in model_dir.glob("*/*")) != ["tp_00"]:
        raise InputError(
            f"{model_dir}: is of a run with pipeline or tensor parallelism, which cannot be read; "
            "give a checkpoint of a run with `gang.tensor_parallel_size` 1."
        )

    files = sorted((model_dir / "pp_00" / "tp_00").glob("sdp_*.pt"))

    numbers = [int(match[1]) for f in files if (match := _SHARD.fullmatch(f.name))]
    if not numbers or numbers != list(range(len(files))):
        raise InputError(
            f"{model_dir}: parts of the checkpoint are missing (there are "
            f"{', '.join(f.name for f in files) or 'none'}); copy the directory of the step as a whole."
        )

    return merge_shards([read_tensor_file(file) for file in files])


def merge_shards(shards: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Put together what the ranks of a sharded run wrote.

    Parameters are split over their first dimension, of which the last ranks may have nothing. Scalars, which are not
    split, are the same on all ranks.

    :param shards: The tensors of each rank, in order.
    """
    if len(shards) == 1:
        return dict(shards[0])

    return {
        name: first if first.dim() == 0 else torch.cat([s[name] for s in shards if name in s])
        for name, first in shards[0].items()
    }


def read_tensor_file(file: Path) -> dict[str, Tensor]:
    """Read a file of tensors onto the CPU without running code that may be in it.

    :param file: What ``torch.save(model.state_dict(), file)`` writes, as it is or under ``model`` or ``state_dict``;
        or a ``.safetensors`` file. What is not a tensor in it is ignored.
    :returns: The tensors by name, at least one.
    :raises InputError: If the file is missing, holds something else, or cannot be read.
    """
    return pick_tensors(file, load_content(file))


def pick_tensors(file: Path, content: object) -> dict[str, Tensor]:
    """Pick the tensors from what :func:`load_content` has read.

    :param file: The file, for messages.
    :param content: Its content.
    :raises InputError: If there is no tensor with a name in it.
    """
    for key in _WRAPPING_KEYS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]

    tensors = {}
    if isinstance(content, Mapping):
        tensors = {str(k): v for k, v in content.items() if isinstance(v, Tensor)}

    if not tensors:
        raise InputError(
            f"{file}: holds no tensors by name; save them with `torch.save(model.state_dict(), ...)`."
        )

    return tensors


def load_content(file: Path) -> object:
    """Read all that a file of tensors holds, without running code that may be in it.

    Files of fairseq hold objects of its own beside the tensors (settings, dictionaries); they become :class:`Inert`.

    :param file: As for :func:`read_tensor_file`.
    :raises InputError: If the file is missing, cannot be read, or holds objects of other programs.
    """
    if file.suffix == ".safetensors":
        return _load_safetensors(file)

    try:
        with safe_globals(_list_stand_ins(file)):
            return torch.load(file, map_location="cpu", weights_only=True)
    except OSError as ex:
        raise InputError(f"{file}: cannot be read ({ex.strerror}); correct the path.") from None
    except (PickleError, RuntimeError, EOFError, LookupError, ValueError, TypeError) as ex:
        if not (isinstance(ex, UnpicklingError) and re.search("Unsupported|GLOBAL", str(ex))):
            raise InputError(
                f"{file}: is not a file of tensors, or is damaged; copy or save it again."
            ) from None

        match = re.search(r"GLOBAL ([\w.]+)", str(ex))
        what = f" (`{match[1]}`)" if match else ""

        raise InputError(
            f"{file}: holds more than tensors{what}, and reading that would run code of the file; "
            "load it where you trust it and save only its `state_dict()`."
        ) from None


class Inert:
    """Stands for an object of fairseq: holds its attributes and does nothing."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        """Ignore everything."""


def _list_stand_ins(file: Path) -> list[Any]:
    try:
        names = get_unsafe_globals_in_checkpoint(file)
    except (OSError, ValueError, RuntimeError, PickleError, EOFError, LookupError, TypeError):
        # Damaged, or of torch before 1.6; those hold nothing but settings.
        names = ["argparse.Namespace"]

    return [
        (type(name, (Inert,), {}), name)
        for name in names
        if name.split(".")[0] in ("fairseq", "omegaconf") or name in _PLAIN_GLOBALS
    ]


def _load_safetensors(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except OSError as ex:
        raise InputError(f"{file}: cannot be read ({ex.strerror}); correct the path.") from None
    except SafetensorError:
        raise InputError(
            f"{file}: is not a safetensors file, or is damaged; copy it again."
        ) from None


def _choose_step(root: Path, steps: Sequence[int]) -> int:
    scores = {}

    for step in steps:
        try:
            scores[step] = float((root / "scores" / f"step_{step}.txt").read_text())
        except (OSError, ValueError):
            continue

    # The host negates a score of which less is better.
    return max(scores, key=lambda step: (scores[step], step)) if scores else steps[-1]


def _describe(model_dir: Path) -> RunCheckpoint:
    model_dir = model_dir.absolute()

    # A link to a step lies elsewhere than what says what it is of.
    if not (model_dir.parent.parent / MODEL_FILE).is_file():
        model_dir = model_dir.resolve()

    step_name = model_dir.parent.name

    step_nr = int(step_name[5:]) if re.fullmatch("step_[0-9]+", step_name) else None

    return RunCheckpoint(model_dir, step_nr, *read_model_yaml(model_dir.parent.parent))


def read_model_yaml(directory: Path) -> tuple[str, Mapping[str, object]] | tuple[None, None]:
    """Read what the host writes of a model beside its checkpoints: its family and its configuration.

    :param directory: The directory of ``model.yaml``.
    :returns: Nothing if there is no such file, or it is none of the host.
    :raises InputError: If it cannot be read.
    """
    file = directory / MODEL_FILE
    if not file.is_file():
        return None, None

    try:
        metadata = YAML(typ="safe", pure=True).load(file)

        # The host writes the family first, so that half a file has it too.
        if isinstance(metadata, dict) and "model_family" not in metadata:
            return None, None

        return str(metadata["model_family"]), dict(metadata["model_config"])
    except (OSError, UnicodeDecodeError, YAMLError, KeyError, TypeError, ValueError):
        raise InputError(
            f"{file}: is damaged, and says what the model looks like; copy it again from the run."
        ) from None
