"""The output directory: made only once it is known that the run can start, and never that of another run."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Final, Protocol, final

from fairseq2.error import OperationalError
from fairseq2.file_system import FileSystem
from fairseq2.recipe.config import CommonSection
from fairseq2.recipe.internal.output_dir import _OutputDirectoryCreator
from fairseq2.recipe.internal.sweep_tag import _SweepTagGenerator
from fairseq2.runtime.dependency import DependencyContainer, DependencyResolver
from fairseq2.utils.structured import ValueConverter
from fairseq2.utils.yaml import RuamelYamlDumper, YamlDumper, YamlError, YamlLoader
from typing_extensions import override

from eqssl_speech.error import InputError
from eqssl_speech.host import override_provider
from eqssl_speech.report.output import write_atomically

_FREE_KEYS: Final = (
    "regime.",
    "gang.",
    "common.metric_recorders.",
    "common.profilers.",
    "common.cluster",
    "dataset.num_workers",
    "dataset.num_prefetch",
    "model.fast",
    "trainer.data_parallelism",
    "trainer.fsdp.granularity",
    "trainer.fsdp.hybrid",
    "trainer.fsdp.reshard_after_forward",
    "trainer.grad_accumulation.no_sync",
    "validation.",
    "dataset.on_dead_source",
    *(
        f"{section}.{key}"
        for section in ("equilibrium", "optimizer.config")
        for key in ("on_divergence", "max_inner_loss_rise", "max_num_non_finite")
    ),
)
"""What a resumed run may change: how long, how often and how it is watched, how fast and by which processes (but for
rounding, the numbers are the same), and what is done about what goes wrong."""

_FIXED_KEYS: Final = ("validation.max_num_utterances",)
"""What it may not for all that: scores of different utterances cannot be compared, and the best checkpoint is chosen by
them."""


class _Config(Protocol):
    common: CommonSection


def check_before_writing(
    container: DependencyContainer,
    get_config: Callable[[DependencyResolver], _Config],
    check: Callable[[DependencyResolver], None],
) -> None:
    """Have a run checked before the first thing that it writes.

    :param container: The host's container.
    :param get_config: Returns the validated configuration.
    :param check: Raises what is wrong with configuration and data.
    """

    def create(resolver: DependencyResolver) -> CheckedOutputDirectoryCreator:
        return CheckedOutputDirectoryCreator(resolver, get_config(resolver), check)

    override_provider(container, _OutputDirectoryCreator, create, singleton=True)

    override_provider(container, YamlDumper, _create_dumper, singleton=True)


@final
class AtomicYamlDumper(YamlDumper):
    """Writes files so that they are there whole or not at all, whoever reads them and whenever the process is killed.

    The host writes ``config.yaml`` anew at each start, while other processes of the run may be reading it.
    """

    def __init__(self, dumper: YamlDumper) -> None:
        """:param dumper: Makes the text."""
        self._dumper = dumper

    @override
    def dump(self, obj: object, output: Path | IO[str]) -> None:
        if not isinstance(output, Path):
            self._dumper.dump(obj, output)

            return

        text = io.StringIO()

        self._dumper.dump(obj, text)

        write_atomically(output, text.getvalue().encode())


def _create_dumper(resolver: DependencyResolver) -> AtomicYamlDumper:
    return AtomicYamlDumper(RuamelYamlDumper(resolver.resolve(FileSystem)))


class CheckedOutputDirectoryCreator(_OutputDirectoryCreator):  # type: ignore[misc]
    """Creates the output directory, the first thing that a run writes, once it is known that the run can start.

    The host makes the directory and writes the configuration into it before a recipe is asked for its task. Checks that
    have to come first therefore sit here.
    """

    def __init__(
        self,
        resolver: DependencyResolver,
        config: _Config,
        check: Callable[[DependencyResolver], None],
    ) -> None:
        """
        :param resolver: The host's resolver.
        :param config: The validated configuration.
        :param check: Raises what is wrong with configuration and data.
        """
        super().__init__(resolver.resolve(_SweepTagGenerator), resolver.resolve(FileSystem))

        self._resolver = resolver
        self._config = config
        self._check = check
        self._checked: set[Path] = set()

    @override
    def create(self, output_dir: Path) -> Path:
        """Check configuration, data and directory, then create the directory.

        :raises InputError: If the run cannot start, or the directory cannot be made or written to.
        """
        # The host asks again each time that somebody wants to know the directory.
        if output_dir not in self._checked:
            check_output_dir(self._resolver, self._config, output_dir)

            self._check(self._resolver)

            self._checked.add(output_dir)

        try:
            directory: Path = super().create(output_dir)
        except OperationalError as ex:
            reason = getattr(ex.__cause__, "strerror", None) or ex.__cause__

            raise InputError(
                f"{output_dir}: the output directory cannot be made ({reason}); choose another."
            ) from None

        if directory.is_dir() and not os.access(directory, os.W_OK | os.X_OK):
            raise InputError(
                f"{directory}: the output directory cannot be written to; choose another, or change its permissions."
            )

        return directory


def check_output_dir(resolver: DependencyResolver, config: _Config, output_dir: Path) -> None:
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

    # What the stored configuration was written without, by an older version, had its default there.
    defaults = dict(_flatten(_reload(resolver, type(config)())))

    for key in present.keys() - stored.keys():
        sections = {key[:i] for i, char in enumerate(key) if char == "."}

        if sections.isdisjoint(stored):  # Else the section is null there.
            stored[key] = defaults.get(key)

    for key in sorted(stored.keys() | present.keys()):
        is_free = key.startswith(_FREE_KEYS) and key not in _FIXED_KEYS

        if is_free or stored.get(key) == present.get(key):
            continue

        raise InputError(
            f"{output_dir} holds a run with another configuration (`{key}` is {stored.get(key)!r} there and "
            f"{present.get(key)!r} here): choose another output directory, or repeat its configuration to resume it."
        )


def _reload(resolver: DependencyResolver, config: _Config) -> object:
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
