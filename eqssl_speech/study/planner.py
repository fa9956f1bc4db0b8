"""What has to be run for a study, in order, and what each waits for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, final

from eqssl_speech.error import InputError
from eqssl_speech.study.cells import (
    Cell,
    PlannedCell,
    SettingsMaker,
    iterate_plans,
    list_arguments,
    list_cells,
    merge_settings,
)
from eqssl_speech.study.jobs import (
    FINETUNE,
    PRETRAIN,
    SEEN,
    START,
    TEST,
    TUNE,
    UNSEEN,
    Job,
    NothingToChooseError,
    name_adaptation,
    name_phones,
    name_tuning,
)
from eqssl_speech.study.study_file import Settings, Study
from eqssl_speech.study.tuning import read_tuned_loss

INNER_LR: Final = "equilibrium.inner_lr"

_SEED_AFTER_START: Final = 10_000
"""Is added to the seed of what goes on from a start: where it draws as that did, it would hear its batches again."""

_NUM_STEPS: Final = "regime.num_steps"
_ADAPTATION_LR: Final = "validation.adaptation_lr"
_NUM_ADAPTATION_STEPS: Final = "validation.num_adaptation_steps"


@final
class Planner:
    """Lists the jobs of a study."""

    def __init__(self, study: Study, directory: Path, corpus: Path, out: Path) -> None:
        """
        :param study: The study.
        :param directory: Where its file is, and the configuration files that it names.
        :param corpus: The corpus.
        :param out: The directory of the study.
        :raises InputError: If a configuration file cannot be read, or the corpus lacks phone labels that are needed.
        """
        self._study = study
        self._directory = directory
        self._corpus = corpus
        self._out = out
        self._maker = SettingsMaker(study, directory)
        self._jobs: dict[str, Job] = {}
        self._phones: tuple[Path, ...] = ()

        if study.phones is not None:
            directory = corpus / study.phones.source
            self._phones = tuple(sorted(directory.glob("*.phones.ctm")))

            # What is labelled.
            if not {f"{split}.phones.ctm" for split in ("train", "valid")} & {
                file.name for file in self._phones
            }:
                raise InputError(
                    f"{directory}: has no phone labels (`train.phones.ctm`, `valid.phones.ctm`); name a source "
                    "that has in `phones.source`, or leave `phones` out."
                )

    def list_cells(self) -> list[PlannedCell]:
        """List the cells, each once."""
        return list_cells(self._study, self._maker)

    def num_inner_steps(self, cell: Cell) -> int:
        """Return the K of a cell; 0 of conventional training."""
        return self._maker.num_inner_steps(cell.family, cell.regime)

    def find_pretrained(self, cell: Cell) -> str | None:
        """Return the name of the job that pre-trains a cell; ``None`` of random weights."""
        how = self._study.regimes[cell.regime]

        if how.is_random:
            return None

        return _name_start(cell.family, cell.seed) if how.is_start else f"{PRETRAIN}/{cell.name}"

    def list_jobs(self) -> list[Job]:
        """List the jobs in the order in which they are started, each after those that it needs.

        :raises InputError: If a configuration lacks a number that has to change, or has none of what is tuned.
        """
        for planned in iterate_plans(self._study, self._maker):
            self._plan(planned)

        return list(self._jobs.values())

    def choose(self, family: str, regime: str, until: str | None = None) -> Settings:
        """Return the tuned settings of a regime, which are known once its tuning runs are done.

        :param family: The family.
        :param regime: The regime.
        :param until: Only those that are chosen before this one.
        :raises NothingToChooseError: If no run of some setting came to a loss.
        :raises InputError: If what a run came to cannot be read.
        """
        chosen: Settings = {}

        for name, values in self.list_tuned(regime).items():
            if name == until:
                break

            losses = {v: self.read_tuning(family, regime, name, v) for v in values}
            best = min(losses, key=lambda v: losses[v])

            if not math.isfinite(losses[best]):
                raise NothingToChooseError(
                    f"{self._out / TUNE / family / regime}: no run with `{name}` of {values} has a loss; try others."
                )

            chosen[name] = best

        return chosen

    def list_tuned(self, regime: str) -> Mapping[str, Sequence[float]]:
        """List the settings that a regime chooses, in this order, with the values that are tried."""
        return {**self._study.tuning.values, **self._study.regimes[regime].tune}

    def read_tuning(self, family: str, regime: str, name: str, value: float) -> float:
        """Return the loss by which a setting is chosen: on the validation data of all sources after the last update, at
        theta or, of a regime that has some, after as many inner steps as its own, whichever is lower; infinite if there
        is none."""
        num_steps = self._tuning_settings(family, regime, name)[_NUM_STEPS]
        assert isinstance(num_steps, int)

        return read_tuned_loss(
            self._out / name_tuning(family, regime, name, value) / "metrics",
            num_steps,
            may_adapt=self._maker.num_inner_steps(family, regime) > 0,
        )

    def _plan(self, planned: PlannedCell) -> None:
        cell, study = planned.cell, self._study
        pretrained = self.find_pretrained(cell)

        if study.regimes[cell.regime].is_start:
            self._plan_start(cell.family, cell.seed)
        elif pretrained is not None:
            self._plan_pretraining(cell, pretrained)

        if study.finetuning is not None:
            for amount in planned.labels:
                for source in study.finetuning.sources:
                    self._plan_finetuning(cell, amount, source, pretrained)

        if planned.adapt and study.adaptation is not None and pretrained is not None:
            for group, sources in (
                (SEEN, study.adaptation.seen),
                (UNSEEN, study.adaptation.unseen),
            ):
                for lr in study.adaptation.lrs if sources else []:
                    self._plan_adaptation(cell, group, sources, lr, pretrained)

        if planned.adapt and study.phones is not None and pretrained is not None:
            for layer in study.phones.layers:
                self._plan_phones(cell, layer, pretrained)

    def _plan_pretraining(self, cell: Cell, name: str) -> None:
        after = self._plan_tuning(cell.family, cell.regime)
        start = self._plan_start(cell.family, cell.seed)
        settings = self._maker.make(cell.family, cell.regime, cell.counting)

        def make_command() -> list[str]:
            tuned = self.choose(cell.family, cell.regime)

            return self._pretrain(name, cell.family, {**settings, **tuned}, cell.seed, start)

        needs = (*start, *self._plan_labels(cell.family, SEEN))
        self._add(Job(name, make_command, needs, after, self._files(cell.family)))

    def _plan_start(self, family: str, seed: int) -> tuple[str, ...]:
        """Plan what all regimes of a seed go on from, if anything."""
        section = self._study.pretraining[family]
        if section.start is None:
            return ()

        name = _name_start(family, seed)
        settings = merge_settings(
            {"dataset.sources": self._study.sources}, self._study.settings, section.start
        )

        self._add(
            Job(
                name,
                lambda: self._pretrain(name, family, settings, seed),
                self._plan_labels(family, SEEN),
                files=self._files(family),
            )
        )

        return (name,)

    def _plan_tuning(self, family: str, regime: str) -> tuple[str, ...]:
        """Plan the runs of tuning; the first settings are chosen before the next are tried."""
        tuned, seed = self.list_tuned(regime), self._study.tuning.seed
        if not tuned:
            return ()

        self._require_tunable(family, regime)
        start = self._plan_start(family, seed)
        before: list[str] = []

        for key, values in tuned.items():
            needs, after = (*self._plan_labels(family, SEEN), *start), tuple(before)
            jobs = []

            for value in values:
                name = name_tuning(family, regime, key, value)

                def make_command(
                    name: str = name, key: str = key, value: float = value
                ) -> list[str]:
                    chosen = {**self.choose(family, regime, until=key), key: value}

                    settings = self._tuning_settings(family, regime, key) | chosen

                    # Judged by steps of the size that it is trained for.
                    if self._maker.num_inner_steps(family, regime) > 0:
                        settings[_ADAPTATION_LR] = self._maker.find(family, settings, INNER_LR)

                    return self._pretrain(name, family, settings, seed, start)

                files = self._files(family)
                self._add(Job(name, make_command, needs, after, files, may_diverge=True))
                jobs.append(name)

            before += jobs

        return tuple(before)

    def _require_tunable(self, family: str, regime: str) -> None:
        """Refuse at once what would be found out by the first run of tuning."""
        for name in self.list_tuned(regime):
            if name.startswith("equilibrium.") and not self._maker.num_inner_steps(family, regime):
                raise InputError(
                    f"`{name}` is to be tuned, but `{regime}` has no inner steps; tune it in `regimes.*.tune` of those "
                    "that have some."
                )

            for other, value in self._tuning_settings(family, regime, name).items():
                if value is None and name.startswith(f"{other}."):
                    raise InputError(
                        f"`{name}` is to be tuned, but `{regime}` has no `{other}`; tune it in `regimes.*.tune` of "
                        "those that have one."
                    )

    def _tuning_settings(self, family: str, regime: str, name: str) -> Settings:
        """Return what is common to runs that tune a setting of a regime, which hear in an update what its cells do."""
        settings = self._maker.make(family, regime, "audio")
        num_steps = self._study.tuning.num_steps.get(name)
        num_steps = num_steps or self._maker.require(family, settings, _NUM_STEPS)
        settings = self._maker.shorten(family, settings, num_steps)

        num_inner_steps = self._maker.num_inner_steps(family, regime)
        if num_inner_steps > 0:
            settings[_NUM_ADAPTATION_STEPS] = num_inner_steps

        return settings

    def _files(self, family: str) -> tuple[Path, ...]:
        return (self._directory / self._study.pretraining[family].config,)

    def _plan_labels(self, family: str, group: str) -> tuple[str, ...]:
        study = self._study
        arguments = study.pretraining[family].labels
        if arguments is None:
            return ()

        name = f"labels/{family}/{group}"
        needs: tuple[str, ...] = ()

        if group == SEEN:
            sources, extra = study.sources, arguments
        else:
            assert study.adaptation is not None
            needs = self._plan_labels(family, SEEN)
            # Clusters of what is pre-trained on only.
            sources = study.adaptation.unseen
            extra = ["--codebook", str(self._out / needs[0])]

        command = ["labels", str(self._corpus), str(self._out / name), "--jobs", "1", *extra]
        for source in sources:
            command += ["--source", source]

        self._add(Job(name, lambda: command, needs))

        return (name,)

    def _plan_finetuning(
        self, cell: Cell, amount: str, source: str, pretrained: str | None
    ) -> None:
        section = self._study.finetuning
        assert section is not None

        tokenizer = f"tokenizer/{source}"
        arguments = [str(self._corpus), str(self._out / tokenizer), "--source", source]
        self._add(Job(tokenizer, lambda: ["tokenizer", *arguments]))

        finetune = f"{FINETUNE}/{cell.name}/{amount}/{source}"
        settings: Settings = {
            "dataset.corpus": str(self._corpus),
            "dataset.sources": [source],
            "tokenizer": str(self._out / tokenizer),
            "pretrained": None if pretrained is None else str(self._out / pretrained),
            "common.seed": cell.seed,
        }
        settings = merge_settings(
            settings, section.labels[amount], self._study.regimes[cell.regime].finetuning
        )
        self._add(
            Job(
                finetune,
                lambda: self._train("finetune", finetune, section.config, settings),
                (tokenizer, *([] if pretrained is None else [pretrained])),
                files=(self._directory / section.config,),
            )
        )

        test = f"{TEST}/{cell.name}/{amount}/{source}"
        command = ["evaluate", str(self._out / finetune), str(self._corpus)]
        command += ["--split", section.split, "--source", source, "--out", str(self._out / test)]

        self._add(Job(test, lambda: command, (finetune,)))

    def _plan_adaptation(
        self, cell: Cell, group: str, sources: Sequence[str], lr: float, pretrained: str
    ) -> None:
        section = self._study.adaptation
        assert section is not None

        name = name_adaptation(cell, group, lr)
        labels = self._plan_labels(cell.family, group)

        command = ["adapt", str(self._out / pretrained), str(self._corpus)]
        command += ["--lr", f"{lr:g}"]
        command += ["--out", str(self._out / name), *section.arguments]

        for source in sources:
            command += ["--source", source]
        for label in labels:
            command += ["--labels", str(self._out / label)]

        self._add(Job(name, lambda: command, (pretrained, *labels)))

    def _plan_phones(self, cell: Cell, layer: int, pretrained: str) -> None:
        section = self._study.phones
        assert section is not None

        name = name_phones(cell, layer)
        command = ["labels", str(self._corpus), str(self._out / name), "--jobs", "1"]
        command += ["--checkpoint", str(self._out / pretrained), "--layer", str(layer)]
        command += ["--source", section.source, *section.arguments]

        self._add(Job(name, lambda: command, (pretrained,), files=self._phones))

    def _pretrain(
        self, name: str, family: str, settings: Settings, seed: int, start: Sequence[str] = ()
    ) -> list[str]:
        section = self._study.pretraining[family]
        settings = {"dataset.corpus": str(self._corpus), **settings, "common.seed": seed}

        for run in start:
            settings["pretrained"] = str(self._out / run)
            settings["common.seed"] = seed + _SEED_AFTER_START

        if section.labels is not None:
            settings["dataset.labels"] = str(self._out / "labels" / family / SEEN)

        return self._train("pretrain", name, section.config, settings)

    def _train(self, recipe: str, name: str, config: str, settings: Settings) -> list[str]:
        command = [recipe, str(self._out / name), "--config-file", str(self._directory / config)]

        return [*command, "--no-rich", "--config", *list_arguments(settings)]

    def _add(self, job: Job) -> None:
        self._jobs.setdefault(job.name, job)


def _name_start(family: str, seed: int) -> str:
    return f"{START}/{family}/seed-{seed}"
