"""What a report can be about: found out from what is in a directory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias, final

from eqssl_speech.error import InputError
from eqssl_speech.report.adaptation import ADAPTATION_FILE, read_adaptation
from eqssl_speech.report.evaluation_facts import EvaluationFacts, read_evaluation
from eqssl_speech.report.output import SUMMARY_FILE_NAME
from eqssl_speech.report.runs import History, read_config, read_history
from eqssl_speech.study.results import RESULTS_FILE, read_results

_ASR: Final = "wav2vec2_asr"


@final
@dataclass(frozen=True)
class TrainingRun:
    """The history of a training."""

    name: str

    is_finetuning: bool

    config: Mapping[str, Any]

    train: History
    """The lines of training over all sources, by update."""

    valid: History
    """The validations over all sources, by update."""

    sources: Mapping[str, History]
    """The validations of each source."""

    def setting(self, path: str) -> Any:
        """Return a setting by its dotted name; ``None`` where there is none."""
        value: Any = self.config
        for key in path.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None

        return value


@final
@dataclass(frozen=True)
class NamedEvaluation:
    """An evaluation."""

    name: str
    facts: EvaluationFacts


@final
@dataclass(frozen=True)
class NamedAdaptation:
    """Adaptation curves: the losses by source, in bits, after 0 .. K steps."""

    name: str
    losses: Mapping[str, Sequence[float]]


@final
@dataclass(frozen=True)
class NamedStudy:
    """What a study has come to."""

    name: str
    results: Mapping[str, Any]


ReportInput: TypeAlias = TrainingRun | NamedEvaluation | NamedAdaptation | NamedStudy


def read_inputs(paths: Sequence[Path]) -> list[ReportInput]:
    """Read what a report is about.

    :param paths: Output directories of `eqssl pretrain`, `finetune`, `evaluate`, `adapt` and `study`, or directories
        that hold some, of which all are taken.
    :raises InputError: If there is nothing to report in one of them.
    """
    found: list[Path] = []

    for path in paths:
        if not path.is_dir():
            raise InputError(f"{path}: is no directory; give the output directory of a training.")

        inner = [path] if _is_input(path) else sorted(p for p in path.iterdir() if _is_input(p))

        if not inner:
            raise InputError(
                f"{path}: holds no run, evaluation, adaptation or study, and no directory of one; give the output "
                "directory of `eqssl pretrain`, `finetune`, `evaluate --out`, `adapt --out` or `study`."
            )

        found += inner

    found = list(dict.fromkeys(p.resolve() for p in found))
    names = _name(found)

    return [_read(path, name) for path, name in zip(found, names, strict=True)]


def _is_input(path: Path) -> bool:
    return (path / "metrics").is_dir() or any(
        (path / name).is_file() for name in (ADAPTATION_FILE, RESULTS_FILE, "hypotheses.tsv")
    )


def _read(path: Path, name: str) -> ReportInput:
    if (path / RESULTS_FILE).is_file():
        return NamedStudy(name, read_results(path))

    if (path / ADAPTATION_FILE).is_file():
        return NamedAdaptation(name, read_adaptation(path))

    if (path / "metrics").is_dir():
        return _read_run(path, name)

    return NamedEvaluation(name, read_evaluation(path / SUMMARY_FILE_NAME))


def _read_run(path: Path, name: str) -> TrainingRun:
    metrics = path / "metrics"
    config = read_config(path / "config.yaml") or {}
    histories = {f.stem: read_history(f) for f in sorted((metrics / "valid").glob("*.jsonl"))}

    def read(file: Path) -> History:
        return read_history(file) if file.is_file() else {}

    run = TrainingRun(
        name,
        False,
        config,
        read(metrics / "train.jsonl"),
        read(metrics / "valid.jsonl"),
        {source: history for source, history in histories.items() if history},
    )

    if not run.train and not run.valid:
        raise InputError(
            f"{metrics}: says nothing yet; let the run go on until its first metrics "
            "(`regime.publish_metrics_every_n_steps`)."
        )

    is_finetuning = run.setting("model.family") == _ASR or any(
        "ctc_loss" in row for row in (*run.train.values(), *run.valid.values())
    )

    return TrainingRun(name, is_finetuning, config, run.train, run.valid, run.sources)


def _name(paths: Sequence[Path]) -> list[str]:
    """Name each path by as few of its last parts as set it apart from the others."""
    names = [p.name for p in paths]

    for depth in range(2, 12):
        repeated = {n for n in names if names.count(n) > 1}
        if not repeated:
            break

        names = [
            "/".join(p.parts[-depth:]) if n in repeated else n
            for n, p in zip(names, paths, strict=True)
        ]

    return names
