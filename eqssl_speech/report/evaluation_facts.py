"""Reads ``summary.json`` of an evaluation."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias, final

from eqssl_speech.error import InputError
from eqssl_speech.report.output import SUMMARY_FILE_NAME

FORMAT_VERSION: Final = 1
"""Of ``summary.json``."""

Interval: TypeAlias = tuple[float, float]


@final
@dataclass(frozen=True)
class LanguageFacts:
    """The error rates of a language, 1.0 for 100 %."""

    num_utterances: int

    audio_s: float

    cer: float

    wer: float

    cer_interval: Interval | None
    """What holds 95 % of the resamples."""

    wer_interval: Interval | None


@final
@dataclass(frozen=True)
class EvaluationFacts:
    """What `eqssl evaluate` found."""

    file: Path

    model: str
    """The model, as `eqssl evaluate` calls it: the directory of its run, and the step."""

    corpus: str
    """The name of the corpus."""

    split: str

    decoding: str
    """The search, in words."""

    languages: Mapping[str, LanguageFacts]

    def is_of(self, run_name: str, step: int) -> bool:
        """Whether it is of a step of a run.

        :param run_name: The name of the run's directory.
        :param step: The step.
        """
        path, _, name = self.model.rpartition(", ")

        return Path(path).name == run_name and name == f"step {step}"


def read_evaluation(path: Path) -> EvaluationFacts:
    """Read an evaluation.

    :param path: What `eqssl evaluate --out` has made, or ``summary.json`` in it.
    :raises InputError: If there is none, or an error rate in it is no number.
    """
    file = path / SUMMARY_FILE_NAME if path.is_dir() else path

    try:
        content = json.loads(file.read_text(encoding="utf-8"))

        if content["format_version"] != FORMAT_VERSION:
            raise ValueError(f"its format is {content['format_version']}, not {FORMAT_VERSION}")

        return EvaluationFacts(
            file,
            str(content["model"]),
            Path(content["corpus"]).name,
            str(content["split"]),
            str(content["decoding"]),
            {name: _parse(scores) for name, scores in content["languages"].items()},
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as ex:
        raise InputError(
            f"{file}: cannot be read as an evaluation ({type(ex).__name__}: {ex}); give what `eqssl evaluate --out` "
            "has made."
        ) from None


def _parse(scores: Mapping[str, Any]) -> LanguageFacts:
    return LanguageFacts(
        int(scores["utterances"]),
        float(scores["audio_s"]),
        _parse_rate(scores["cer"]),
        _parse_rate(scores["wer"]),
        _parse_interval(scores["cer"]),
        _parse_interval(scores["wer"]),
    )


def _parse_rate(rate: Mapping[str, Any]) -> float:
    value = float(rate["value"])

    if not math.isfinite(value):
        raise ValueError(f"an error rate is {value}")

    return value


def _parse_interval(rate: Mapping[str, Any]) -> Interval | None:
    if rate["low"] is None or rate["high"] is None:
        return None

    return float(rate["low"]), float(rate["high"])
