"""What can go wrong is found here: before the first step, and before anything is written."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import torch
from fairseq2.file_system import FileSystem
from fairseq2.recipe.internal.output_dir import _OutputDirectoryCreator
from fairseq2.recipe.internal.sweep_tag import _SweepTagGenerator
from fairseq2.runtime.dependency import DependencyResolver
from fairseq2.utils.structured import ValueConverter
from fairseq2.utils.yaml import YamlDumper, YamlError, YamlLoader
from fairseq2.world_info import WorldInfo
from typing_extensions import override

from eqssl_speech.error import InputError
from eqssl_speech.tasks.pretrain.config import PretrainConfig
from eqssl_speech.tasks.pretrain.optimizer import get_equilibrium_section
from eqssl_speech.tasks.pretrain.sources import CheckedSources, create_planner

_FREE_KEYS: Final = (
    "regime.",
    "gang.",
    "common.metric_recorders.",
    "common.profilers.",
    "common.cluster",
    "dataset.num_workers",
    "dataset.num_prefetch",
    "validation.",
)
"""What a resumed run may change: how long, how often and how it is watched."""


class CheckedOutputDirectoryCreator(_OutputDirectoryCreator):  # type: ignore[misc]
    """Creates the output directory, the first thing that a run writes, once it is known that the run can start.

    The host makes the directory and writes the configuration into it before a recipe is asked for its task. Checks that
    have to come first therefore sit here.
    """

    def __init__(self, resolver: DependencyResolver, config: PretrainConfig) -> None:
        """
        :param resolver: The host's resolver.
        :param config: The validated configuration.
        """
        super().__init__(resolver.resolve(_SweepTagGenerator), resolver.resolve(FileSystem))

        self._resolver = resolver
        self._config = config
        self._checked: set[Path] = set()

    @override
    def create(self, output_dir: Path) -> Path:
        """Check configuration, data and directory, then create the directory.

        :raises InputError: If the run cannot start.
        """
        # The host asks again each time that somebody wants to know the directory.
        if output_dir not in self._checked:
            self._check(output_dir)

            self._checked.add(output_dir)

        return super().create(output_dir)

    def _check(self, output_dir: Path) -> None:
        num_ranks = self._resolver.resolve(WorldInfo).size

        check_config(self._config, num_ranks)
        check_output_dir(self._resolver, self._config, output_dir)

        sources = self._resolver.resolve(CheckedSources)

        section = get_equilibrium_section(self._config)

        # Found out now rather than at the first batch: whether the budget of audio fits the sources.
        create_planner(
            self._config,
            sources.train,
            num_inner_steps=0 if section is None else section.num_inner_steps,
            num_replicas=num_ranks,
        )


def check_config(config: PretrainConfig, world_size: int) -> None:
    """Refuse what does not go together.

    :param config: The configuration, whose sections are valid each for itself.
    :param world_size: The number of processes.
    :raises InputError: Names the keys and says what to set.
    """
    section = get_equilibrium_section(config)
    adapts = section is not None and section.num_inner_steps > 0
    trainer = config.trainer
    precision = trainer.mixed_precision

    if config.dataset.regime == "mixed" and adapts:
        raise InputError(
            "`dataset.regime` is 'mixed', whose batches belong to no single source, but `equilibrium` asks for inner "
            "steps on one: set `dataset.regime` to 'per_source' or `equilibrium` to null."
        )

    if trainer.grad_accumulation.num_batches != 1:
        raise InputError(
            f"`trainer.grad_accumulation.num_batches` is {trainer.grad_accumulation.num_batches}, but accumulation "
            "follows from the number of episodes: leave it at 1 and set `dataset.episodes_per_source`."
        )

    if trainer.data_parallelism == "fsdp" and trainer.grad_accumulation.no_sync and world_size > 1:
        raise InputError(
            "`trainer.grad_accumulation.no_sync` does not work with sharded parameters: set it to false."
        )

    uses_fp16 = config.model.dtype == torch.float16 or (
        precision.mode != "off" and precision.dtype == torch.float16
    )
    if adapts and uses_fp16:
        raise InputError(
            "Inner steps have no loss scale in float16: set `trainer.mixed_precision.dtype` to bfloat16 (or its `mode` "
            "to 'off')."
        )

    if adapts and trainer.data_parallelism == "fsdp" and world_size > 1:
        raise InputError(
            "Inner steps on sharded parameters are not supported yet: set `trainer.data_parallelism` to 'ddp'."
        )

    if config.regime.num_steps is None:
        raise InputError(
            "`regime.num_steps` is not set, but sources start over at their own pace and never end: set the number of "
            "updates."
        )

    if config.model.family not in (None, "wav2vec2"):
        raise InputError(
            f"`model.family` is '{config.model.family}', but pre-training supports 'wav2vec2' only."
        )


def check_output_dir(
    resolver: DependencyResolver, config: PretrainConfig, output_dir: Path
) -> None:
    """Refuse a directory that holds the run of another configuration.

    :raises InputError: Names the first key that differs and both values.
    """
    output_dir = output_dir.expanduser()

    file = output_dir / "config.yaml"
    if config.common.no_sweep_dir is False or not file.exists():
        return

    # A run that failed before its first step has left nothing to lose.
    if not any(output_dir.glob("checkpoints/step_*")) and not any(output_dir.glob("metrics/*")):
        return

    try:
        (theirs,) = resolver.resolve(YamlLoader).load(file)
    except (OSError, ValueError, YamlError):
        raise InputError(
            f"{file}: cannot be read as YAML, so what {output_dir} holds is unknown; choose another output directory."
        ) from None

    stored, present = dict(_flatten(theirs)), dict(_flatten(_reload(resolver, config)))

    for key in sorted(stored.keys() | present.keys()):
        if key.startswith(_FREE_KEYS) or stored.get(key) == present.get(key):
            continue

        raise InputError(
            f"{output_dir} holds a run with another configuration (`{key}` is {stored.get(key)!r} there and "
            f"{present.get(key)!r} here): choose another output directory, or repeat its configuration to resume it."
        )


def _reload(resolver: DependencyResolver, config: PretrainConfig) -> object:
    # Through the same text as the stored one, so that equal values compare equal.
    unstructured = resolver.resolve(ValueConverter).unstructure(config)

    stream = io.StringIO()

    resolver.resolve(YamlDumper).dump(unstructured, stream)

    stream.seek(0)

    (document,) = resolver.resolve(YamlLoader).load(stream)

    return document


def _flatten(value: object, prefix: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flatten(item, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value
