"""What was taken of a checkpoint, what was not, and what is new."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, final

import torch
from fairseq2.models.wav2vec2 import Wav2Vec2EncoderConfig
from torch import Tensor

from eqssl_speech.error import InputError

_MAX_NUM_MODULES: Final = 6


@final
@dataclass(frozen=True)
class LoadReport:
    """The tensors of a model and of the checkpoint that it was filled from: name and number of elements of each."""

    source: str
    """The checkpoint, in words."""

    loaded: Mapping[str, int]
    """The tensors that the model has from the checkpoint, by their name in the model."""

    left_out: Mapping[str, int]
    """The tensors of the checkpoint that the model has no use for, by their name in the checkpoint."""

    newly_made: Mapping[str, int]
    """The tensors of the model that are as they were initialised."""

    reshaped: Mapping[str, int] = field(default_factory=dict)
    """Those of them that the checkpoint has in another shape."""

    guessed: Mapping[str, object] = field(default_factory=dict)
    """What the checkpoint does not say of its encoder: fields of the configuration, and what they are taken to be."""

    def render(self) -> str:
        """Render the report in a line for each kind, with its modules and their numbers of parameters."""
        kinds = [
            ("loaded", self.loaded),
            ("left out", self.left_out),
            ("newly made", self.newly_made),
        ]
        if self.reshaped:
            kinds.append(("reshaped", self.reshaped))

        rows = [(what, f"{len(sizes)}", f"{sum(sizes.values()):,}", sizes) for what, sizes in kinds]

        widths = [max(len(row[column]) for row in rows) for column in (1, 2)]

        lines = [
            f"  {what:<10}  {num_tensors:>{widths[0]}} tensors  {num_parameters:>{widths[1]}} parameters"
            f"  {_list_modules(sizes)}".rstrip()
            for what, num_tensors, num_parameters, sizes in rows
        ]

        lines += [
            f"  it does not say `{name}`, which is {value} in released models of its size"
            for name, value in self.guessed.items()
        ]

        return "\n".join([f"Encoder of {self.source}:", *lines])


def count_elements(tensors: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, int]:
    """Return the number of elements of some tensors, in the order of the names."""
    return {name: tensors[name].numel() for name in names}


def list_guesses(
    guessed: Iterable[str], theirs: Wav2Vec2EncoderConfig | None, ours: Wav2Vec2EncoderConfig | None
) -> dict[str, object]:
    """List what the model takes over from a checkpoint although that does not say it.

    :param guessed: The fields of its configuration that it does not say.
    :param theirs: The configuration with the guesses.
    :param ours: That of the model, which may know better.
    """
    return {
        name: getattr(theirs, name)
        for name in guessed
        if ours is None or getattr(ours, name) == getattr(theirs, name)
    }


def copy_tensors(source: str, theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> None:
    """Copy tensors of a checkpoint into a model.

    :param source: The checkpoint, in words.
    :param theirs: Its tensors, by the model's names.
    :param ours: The tensors of the model, of the same shapes.
    :raises InputError: If a number is not finite; nothing is copied then.
    """
    for name, tensor in theirs.items():
        if not bool(torch.isfinite(tensor).all()):
            raise InputError(
                f"{source}: the tensor `{name}` holds numbers that are not finite; take an earlier checkpoint."
            )

    with torch.no_grad():
        for name, tensor in theirs.items():
            ours[name].copy_(tensor)


def _list_modules(sizes: Mapping[str, int]) -> str:
    modules: Counter[str] = Counter()
    for name, size in sizes.items():
        modules[name.split(".")[0]] += size

    parts = [f"{module} {size:,}" for module, size in modules.items()]

    if len(parts) > _MAX_NUM_MODULES:
        parts[_MAX_NUM_MODULES - 1 :] = [f"and {len(parts) - _MAX_NUM_MODULES + 1} more"]

    return ", ".join(parts)
