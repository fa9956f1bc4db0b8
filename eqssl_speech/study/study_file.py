"""The file that says what a study consists of."""

from __future__ import annotations

from collections.abc import Mapping, Sized
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from fairseq2.utils.structured import StandardValueConverter
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from eqssl_speech.data.corpus import load_corpus
from eqssl_speech.error import InputError
from eqssl_speech.study.shape import require_shape

Settings: TypeAlias = dict[str, object]
"""What `--config` takes: values by the dotted names of keys."""

Counting: TypeAlias = Literal["audio", "updates", "gradients"]
"""What regimes of different K have in common: the audio of an update (and so the cost of a run), the number of updates
with full batches, or the number of gradient evaluations with full batches."""


@dataclass(kw_only=True)
class PretrainingSection:
    """How a family of models is pre-trained."""

    config: str
    """The configuration file of `eqssl pretrain`, beside the study's own."""

    labels: list[str] | None = None
    """For a family that predicts labels: the arguments of `eqssl labels` that make them of the sources."""

    start: Settings | None = None
    """What sets apart the pre-training that all regimes of a seed go on from; without it they begin with random
    weights."""


@dataclass(kw_only=True)
class RegimeSection:
    """A way of pre-training."""

    settings: Settings = field(default_factory=dict)
    """What sets it apart."""

    is_random: bool = False
    """Whether there is no pre-training at all: what is fine-tuned has random weights."""

    is_start: bool = False
    """Whether there is no more of it than the start, which its family has to have."""

    finetuning: Settings = field(default_factory=dict)
    """What sets apart its fine-tuning."""

    tune: dict[str, list[float]] = field(default_factory=dict)
    """Settings of its own that are chosen after the study's: the values that are tried."""


@dataclass(kw_only=True)
class TuningSection:
    """How settings are chosen, in runs of their own with a seed that no cell has."""

    values: dict[str, list[float]] = field(default_factory=dict)
    """The settings that every regime chooses, and the values that are tried; each by itself, in this order."""

    num_steps: dict[str, int] = field(default_factory=dict)
    """By setting, the updates of the runs that tune it, with all that counts updates in proportion; by default as many
    as of a cell."""

    seed: int = 1000
    """Their seed."""


@dataclass(kw_only=True)
class FinetuningSection:
    """How models are compared as recognisers, one for each source."""

    config: str
    """The configuration file of `eqssl finetune`, beside the study's own."""

    seen: list[str] = field(default_factory=list)
    """Sources that are pre-trained on."""

    unseen: list[str] = field(default_factory=list)
    """Sources of languages that are not."""

    labels: dict[str, Settings] = field(default_factory=dict)
    """Amounts of labels, by name: what sets them apart."""

    split: str = "test"
    """What is recognised."""

    @property
    def sources(self) -> list[str]:
        """All sources."""
        return [*self.seen, *self.unseen]


@dataclass(kw_only=True)
class AdaptationSection:
    """How models are compared by what steps of gradient descent on one source do to their own loss."""

    seen: list[str] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)

    lrs: list[float] = field(default_factory=lambda: [0.03])
    """The step sizes, each measured for every regime."""

    arguments: list[str] = field(default_factory=list)
    """Further arguments of `eqssl adapt`."""


@dataclass(kw_only=True)
class PhonesSection:
    """How models are compared by what clusters of a layer tell of phones."""

    source: str
    """A source with phone labels (``SPLIT.phones.ctm``)."""

    layers: list[int]
    """The layers, from 1, each measured for every regime."""

    arguments: list[str] = field(default_factory=list)
    """Further arguments of `eqssl labels`."""


@dataclass(kw_only=True)
class CellsSection:
    """Cells of the study: everything that a list names with everything that the others name."""

    families: list[str]
    regimes: list[str]
    seeds: list[int]
    counting: Counting = "audio"
    labels: list[str] = field(default_factory=list)
    """The amounts of labels that models are fine-tuned on; none for no fine-tuning."""

    adapt: bool = True
    """Whether their adaptation, and what they tell of phones, is measured."""


@dataclass(kw_only=True)
class Study:
    """What a study consists of."""

    sources: list[str]
    """What is pre-trained on."""

    pretraining: dict[str, PretrainingSection]
    """By family."""

    regimes: dict[str, RegimeSection]
    cells: list[CellsSection]
    """In the order in which they are run."""

    finetuning: FinetuningSection | None = None
    adaptation: AdaptationSection | None = None
    phones: PhonesSection | None = None
    tuning: TuningSection = field(default_factory=TuningSection)
    baselines: list[str] = field(default_factory=list)
    """The regimes that each other is compared with; by default the first."""

    settings: Settings = field(default_factory=dict)
    """Of every pre-training."""

    @property
    def references(self) -> list[str]:
        """The regimes that each other is compared with."""
        return self.baselines or [next(iter(self.regimes))]


def read_study(file: Path) -> Study:
    """Read the file of a study.

    :param file: A YAML file with the fields of :class:`Study`.
    :raises InputError: If it cannot be read, has a field that there is not, or names what it does not define.
    """
    try:
        content = YAML(typ="safe", pure=True).load(file)
    except OSError as ex:
        raise InputError(f"{file}: cannot be read ({ex.strerror}); correct the path.") from None
    except (YAMLError, UnicodeDecodeError) as ex:
        raise InputError(f"{file}: is not YAML ({' '.join(str(ex).split())}).") from None

    try:
        require_shape("", content, Study)
    except InputError as ex:
        raise InputError(f"{file}: {ex}") from None

    study = StandardValueConverter().structure(content, Study)

    assert isinstance(study, Study)

    _check(file, study)

    return study


def require_sources(file: Path, study: Study, corpus: Path) -> None:
    """Refuse a study that names sources which its corpus does not have.

    :param file: The file of the study.
    :param study: The study.
    :param corpus: The corpus.
    :raises InputError: If there is no such corpus, or it lacks a source.
    """
    known = {source.name: None for source in load_corpus(corpus).sources}
    named = {
        "sources": study.sources,
        "finetuning": [] if study.finetuning is None else study.finetuning.sources,
        "adaptation": []
        if study.adaptation is None
        else [*study.adaptation.seen, *study.adaptation.unseen],
        "phones": [] if study.phones is None else [study.phones.source],
    }

    for section, names in named.items():
        _require_known(f"{file}: `{section}`", names, known, str(corpus))


def _check(file: Path, study: Study) -> None:
    _require_some(file, study)

    finetuning = study.finetuning
    amounts: Mapping[str, object] = {} if finetuning is None else finetuning.labels

    for number, cells in enumerate(study.cells):
        where = f"{file}: `cells[{number}]"

        _require_known(f"{where}.families`", cells.families, study.pretraining, "pretraining")
        _require_known(f"{where}.regimes`", cells.regimes, study.regimes, "regimes")
        _require_known(f"{where}.labels`", cells.labels, amounts, "finetuning.labels")
        _require_trained(where, study, cells)

        if study.tuning.seed in cells.seeds:
            raise InputError(
                f"{where}.seeds` has {study.tuning.seed}, the seed of `tuning`; choose another."
            )

    _check_sources(file, study)

    _require_known(f"{file}: `baselines`", study.baselines, study.regimes, "regimes")

    tuned = {
        name: None for how in study.regimes.values() for name in (*study.tuning.values, *how.tune)
    }
    _require_known(
        f"{file}: `tuning.num_steps`", [*study.tuning.num_steps], tuned, "tuning.values` or `tune"
    )

    configs = [section.config for section in study.pretraining.values()]
    if finetuning is not None:
        configs.append(finetuning.config)

    for config in configs:
        if not (file.parent / config).is_file():
            raise InputError(
                f"{file}: there is no file `{file.parent / config}`; correct `config`."
            )


def _require_some(file: Path, study: Study) -> None:
    lists: dict[str, Sized] = {
        "sources": study.sources,
        "pretraining": study.pretraining,
        "regimes": study.regimes,
        "cells": study.cells,
        **{f"tuning.values.{name}": values for name, values in study.tuning.values.items()},
        **{
            f"regimes.{regime}.tune.{name}": values
            for regime, how in study.regimes.items()
            for name, values in how.tune.items()
        },
    }
    for number, cells in enumerate(study.cells):
        lists[f"cells[{number}].families"] = cells.families
        lists[f"cells[{number}].regimes"] = cells.regimes
        lists[f"cells[{number}].seeds"] = cells.seeds

    for name, values in lists.items():
        if not values:
            raise InputError(f"{file}: `{name}` is empty; list at least one.")

    for name, num_steps in study.tuning.num_steps.items():
        if num_steps < 1:
            raise InputError(f"{file}: `tuning.num_steps.{name}` is {num_steps}; give 1 or more.")


def _require_trained(where: str, study: Study, cells: CellsSection) -> None:
    for regime in cells.regimes:
        section = study.regimes[regime]

        # Nothing of its own is trained.
        if (section.is_random or section.is_start) and (section.settings or section.tune):
            raise InputError(
                f"{where}.regimes` names `{regime}`, which is not pre-trained by itself; leave out its `settings` "
                "and `tune`."
            )

        if section.is_random and section.is_start:
            raise InputError(
                f"{where}.regimes` names `{regime}`, which cannot be both `is_random` and `is_start`; leave one out."
            )

        for family in cells.families:
            if section.is_start and study.pretraining[family].start is None:
                raise InputError(
                    f"{where}.regimes` names `{regime}`, which is the start, but `{family}` has none; give "
                    f"`pretraining.{family}` a `start`, or leave one of the two out."
                )


def _check_sources(file: Path, study: Study) -> None:
    for section in (study.finetuning, study.adaptation):
        if section is None:
            continue

        for names, is_seen in ((section.seen, True), (section.unseen, False)):
            for name in names:
                if (name in study.sources) != is_seen:
                    raise InputError(
                        f"{file}: `{name}` is listed as {'seen' if is_seen else 'unseen'}, but `sources` "
                        f"{'does not name' if is_seen else 'names'} it; correct one of the two."
                    )


def _require_known(where: str, names: list[str], known: Mapping[str, object], section: str) -> None:
    for name in names:
        if name not in known:
            raise InputError(
                f"{where} names `{name}`, which `{section}` does not define (it has {', '.join(known) or 'nothing'})."
            )
