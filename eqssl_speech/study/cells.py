"""The cells of a study, and what settings each of them comes to."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from eqssl_speech.error import InputError
from eqssl_speech.study.study_file import Counting, RegimeSection, Settings, Study

_EQUILIBRIUM: Final = "equilibrium"
_NUM_INNER_STEPS: Final = "equilibrium.num_inner_steps"
_AUDIO: Final = "dataset.audio_seconds_per_update"
_NUM_STEPS: Final = "regime.num_steps"
_PUBLISH: Final = "regime.publish_metrics_every_n_steps"
_CHECKPOINT: Final = "regime.checkpoint_every_n_steps"
_VALIDATE: Final = "regime.validate_every_n_steps"
# Not every schedule counts its warm-up in updates.
_WARM_UP: Final = "lr_scheduler.config.num_warmup_steps"

# Kept besides the last; the host wants them to fit the numbers above.
_KEPT: Final = (
    "regime.keep_best_n_checkpoints",
    "regime.keep_checkpoint_every_n_steps",
)

# Of an equilibrium run only, which may leave them out.
_INNER_COUNTS: Final = (
    "equilibrium.start_after_num_steps",
    "equilibrium.num_inner_warmup_steps",
)


@final
@dataclass(frozen=True)
class Cell:
    """One pre-training, and all that is made of it."""

    family: str
    regime: str
    counting: Counting
    seed: int

    @property
    def name(self) -> str:
        """Its place in the study's directory."""
        return f"{self.family}/{self.regime}/{self.counting}/seed-{self.seed}"


@final
@dataclass(frozen=True)
class PlannedCell:
    """A cell, and what is made of it."""

    cell: Cell
    labels: tuple[str, ...]
    adapt: bool


@final
class SettingsMaker:
    """Says what each regime is pre-trained with."""

    def __init__(self, study: Study, directory: Path) -> None:
        """
        :param study: The study.
        :param directory: Where the configuration files are that it names.
        :raises InputError: If one cannot be read.
        """
        self._study = study
        self._bases = {
            family: _read_base(directory / section.config)
            for family, section in study.pretraining.items()
        }

    def num_inner_steps(self, family: str, regime: str) -> int:
        """Return K; 0 of conventional training."""
        how = self._study.regimes[regime]
        settings = self._merge(how)

        if how.is_random or how.is_start or self.find(family, settings, _EQUILIBRIUM) is None:
            return 0

        num = self.find(family, settings, _NUM_INNER_STEPS)

        return num if isinstance(num, int) else 1

    def make(self, family: str, regime: str, counting: Counting) -> Settings:
        """Return what a regime is pre-trained with, besides what is tuned.

        :param family: The family.
        :param regime: The regime.
        :param counting: See :data:`~eqssl_speech.study.study_file.Counting`.
        :raises InputError: If the configuration lacks a number that has to change.
        """
        settings = self._merge(self._study.regimes[regime])
        num_batches = 1 + self.num_inner_steps(family, regime)

        if num_batches == 1 or counting == "audio":
            return settings

        settings[_AUDIO] = self.require(family, settings, _AUDIO) * num_batches

        if counting == "gradients":
            num_steps = self.require(family, settings, _NUM_STEPS) // num_batches

            return self.shorten(family, settings, num_steps)

        return settings

    def shorten(self, family: str, settings: Settings, num_steps: int) -> Settings:
        """Have a run end earlier, and all that counts updates with it; the last update is validated,
        and its checkpoint is the one that is kept.

        :param family: The family.
        :param settings: The settings.
        :param num_steps: The updates.
        """
        whole = self.require(family, settings, _NUM_STEPS)

        publish, checkpoint = (
            max(1, self.require(family, settings, name) * num_steps // whole)
            for name in (_PUBLISH, _CHECKPOINT)
        )
        # The host wants multiples.
        publish = math.gcd(num_steps, publish)

        inner, warm_up = (
            {
                name: max(least, number * num_steps // whole)
                for name in names
                if isinstance(number := self.find(family, settings, name), int) and number > 0
            }
            for names, least in ((_INNER_COUNTS, 0), ((_WARM_UP,), 1))
        )

        return {
            **settings,
            **inner,
            _NUM_STEPS: num_steps,
            _PUBLISH: publish,
            _CHECKPOINT: max(publish, checkpoint // publish * publish),
            _VALIDATE: num_steps,
            **warm_up,
            **{name: None for name in _KEPT if self.find(family, settings, name) is not None},
        }

    def _merge(self, regime: RegimeSection) -> Settings:
        return merge_settings(
            {"dataset.sources": self._study.sources}, self._study.settings, regime.settings
        )

    def require(self, family: str, settings: Settings, name: str) -> int:
        """Return a setting that is a whole number.

        :raises InputError: If it is not one.
        """
        value = self.find(family, settings, name)

        if not isinstance(value, int):
            raise InputError(
                f"`{name}` is not a whole number in the configuration of `{family}`, but has to change with the "
                "number of updates or inner steps; set it there or in `settings`."
            )

        return value

    def find(self, family: str, settings: Settings, name: str) -> Any:
        """Return a setting, of the regime or else of the configuration file; ``None`` if neither has it."""
        parts = name.split(".")

        for length in range(len(parts), 0, -1):
            key = ".".join(parts[:length])
            if key in settings:
                return _descend(settings[key], parts[length:])

        value = _descend(self._bases[family], parts)

        # A section that is made up of settings alone.
        if value is None and any(
            key.startswith(f"{name}.") and settings.get(name, ...) is not None for key in settings
        ):
            return {}

        return value


def merge_settings(*layers: Settings) -> Settings:
    """Put settings over others. A section stands for each of its keys. A setting removes what an earlier layer says of
    a section around it, or of keys in it: given both, the host would take the section, whichever comes later.

    :param layers: The settings, the last of which count.
    :raises InputError: If a section is empty, which to the host is another than none.
    """
    merged: Settings = {}

    for layer in layers:
        for name, value in _flatten(layer):
            for other in list(merged):
                if other.startswith(f"{name}.") or name.startswith(f"{other}."):
                    del merged[other]

            merged[name] = value

    return merged


def _flatten(settings: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in settings.items():
        if value == {}:
            raise InputError(
                f"`{prefix}{key}` is an empty section; name its keys, or leave it out."
            )

        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def iterate_plans(study: Study, maker: SettingsMaker) -> Iterator[PlannedCell]:
    """List the cells in the order in which they are run, with what is made of them then: a cell that the study names
    again, with other amounts of labels, comes again."""
    for section in study.cells:
        for seed in section.seeds:
            for family in section.families:
                for regime in section.regimes:
                    cell = Cell(
                        # What is not pre-trained is the same in each family,
                        next(iter(study.pretraining))
                        if study.regimes[regime].is_random
                        else family,
                        regime,
                        # and what has no inner steps by each count.
                        section.counting if maker.num_inner_steps(family, regime) else "audio",
                        seed,
                    )

                    yield PlannedCell(cell, tuple(section.labels), section.adapt)


def list_cells(study: Study, maker: SettingsMaker) -> list[PlannedCell]:
    """List the cells, each once, with all that is made of them."""
    cells: dict[Cell, PlannedCell] = {}

    for planned in iterate_plans(study, maker):
        before = cells.get(planned.cell, planned)

        cells[planned.cell] = PlannedCell(
            planned.cell,
            tuple(dict.fromkeys((*before.labels, *planned.labels))),
            before.adapt or planned.adapt,
        )

    return list(cells.values())


def list_arguments(settings: Settings) -> Iterator[str]:
    """List settings as `--config` takes them."""
    for name, value in settings.items():
        yield f"{name}={value if isinstance(value, str) else json.dumps(value)}"


def _read_base(file: Path) -> Mapping[str, Any]:
    try:
        content = YAML(typ="safe", pure=True).load(file)
    except (OSError, UnicodeDecodeError, YAMLError):
        content = None

    if not isinstance(content, dict):
        raise InputError(f"{file}: is no configuration of a recipe; correct `config`.")

    # Unless it says otherwise, it is one of equilibrium training.
    return {"equilibrium": {}, **content}


def _descend(value: Any, parts: list[str]) -> Any:
    for part in parts:
        value = value.get(part) if isinstance(value, dict) else None

    return value
