"""The cells of a study, and what settings each of them comes to."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

from ruamel.yaml import YAML

from eqssl_speech.error import InputError
from eqssl_speech.study.study_file import Counting, RegimeSection, Settings, Study

_AUDIO: Final = "dataset.audio_seconds_per_update"
_NUM_STEPS: Final = "regime.num_steps"

_PUBLISH: Final = "regime.publish_metrics_every_n_steps"
_CHECKPOINT: Final = "regime.checkpoint_every_n_steps"
_VALIDATE: Final = "regime.validate_every_n_steps"
_WARM_UP: Final = "lr_scheduler.config.num_warmup_steps"


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


def list_cells(study: Study) -> list[PlannedCell]:
    """List the cells in the order in which they are run, each once."""
    planned: dict[Cell, PlannedCell] = {}

    for section in study.cells:
        for seed in section.seeds:
            for family in section.families:
                for regime in section.regimes:
                    how = study.regimes[regime]
                    cell = Cell(
                        # What is not pre-trained is the same in each family,
                        next(iter(study.pretraining)) if how.is_random else family,
                        regime,
                        # and what has no inner steps by each count.
                        section.counting if how.num_inner_steps else "audio",
                        seed,
                    )
                    before = planned.get(cell)
                    labels = (*before.labels, *section.labels) if before else section.labels

                    planned[cell] = PlannedCell(
                        cell,
                        tuple(dict.fromkeys(labels)),
                        section.adapt or (before is not None and before.adapt),
                    )

    return list(planned.values())


def make_settings(
    study: Study, base: Mapping[str, Any], regime: RegimeSection, counting: Counting
) -> Settings:
    """Return what a regime is pre-trained with, besides what is tuned.

    :param study: The study.
    :param base: The content of the configuration file.
    :param regime: The regime.
    :param counting: See :data:`~eqssl_speech.study.study_file.Counting`.
    :raises InputError: If the configuration file lacks a number that has to change.
    """
    settings = {
        "dataset.sources": study.sources,
        **study.settings,
        **regime.settings,
    }
    num_batches = 1 + regime.num_inner_steps

    if num_batches == 1 or counting == "audio":
        return settings

    settings[_AUDIO] = _look_up(settings, base, _AUDIO) * num_batches

    if counting == "gradients":
        num_steps, publish, checkpoint, warm_up = (
            max(1, int(_look_up(settings, base, name)) // num_batches)
            for name in (_NUM_STEPS, _PUBLISH, _CHECKPOINT, _WARM_UP)
        )
        # The host wants multiples, and the last update has to be validated.
        publish = math.gcd(num_steps, publish)

        settings |= {
            _NUM_STEPS: num_steps,
            _PUBLISH: publish,
            _CHECKPOINT: max(publish, checkpoint // publish * publish),
            _VALIDATE: num_steps,
            _WARM_UP: warm_up,
        }

    return settings


def read_base(file: Path) -> Mapping[str, Any]:
    """Read a configuration file.

    :raises InputError: If it is not one.
    """
    content = YAML(typ="safe", pure=True).load(file)

    if not isinstance(content, dict):
        raise InputError(f"{file}: is no configuration of a recipe; correct `config`.")

    return content


def list_arguments(settings: Settings) -> Iterator[str]:
    """List settings as `--config` takes them."""
    for name, value in settings.items():
        yield f"{name}={value if isinstance(value, str) else json.dumps(value)}"


def _look_up(settings: Settings, base: Mapping[str, Any], name: str) -> Any:
    if name in settings:
        return settings[name]

    value: Any = base
    for key in name.split("."):
        value = value.get(key) if isinstance(value, dict) else None

    if not isinstance(value, (int, float)):
        raise InputError(
            f"`{name}` is not a number in the configuration of pre-training, but has to change with the number of "
            "inner steps; set it there or in `settings`."
        )

    return value
