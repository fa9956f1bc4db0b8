"""Model cards: what a model is, what it was trained on, how, and with what result. Numbers are read from the run."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

from huggingface_hub import EvalResult, ModelCardData

import eqssl_speech
from eqssl_speech.error import InputError
from eqssl_speech.export import Target
from eqssl_speech.export.card_run import KINDS, describe_run, render_table
from eqssl_speech.export.card_usage import render_usage
from eqssl_speech.export.loading import ExportSource
from eqssl_speech.export.parity import ParityReport
from eqssl_speech.report.output import SUMMARY_FILE_NAME
from eqssl_speech.report.run_facts import RunFacts, read_run_facts
from eqssl_speech.report.sources import SourceRow

CARD_FILE: Final = "README.md"

_LIBRARIES: Final[Mapping[Target, str]] = {
    "hf": "transformers",
    "torchaudio": "torchaudio",
    "onnx": "onnxruntime",
    "fairseq2": "fairseq2",
}


@final
@dataclass(frozen=True)
class EvaluationFacts:
    """What `eqssl evaluate` found."""

    corpus: str
    split: str
    decoding: str

    scores: Mapping[str, Mapping[str, Any]]
    """What was found for each language."""


def read_evaluation(path: Path) -> EvaluationFacts:
    """Read an evaluation.

    :param path: What `eqssl evaluate --out` has made, or ``summary.json`` in it.
    :raises InputError: If there is none.
    """
    file = path / SUMMARY_FILE_NAME if path.is_dir() else path

    try:
        content = json.loads(file.read_text(encoding="utf-8"))

        return EvaluationFacts(
            corpus=Path(content["corpus"]).name,
            split=content["split"],
            decoding=content["decoding"],
            scores={name: dict(scores) for name, scores in content["languages"].items()},
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as ex:
        raise InputError(
            f"{file}: cannot be read as an evaluation ({type(ex).__name__}: {ex}); give what "
            "`eqssl evaluate --out` has made."
        ) from None


def render_card(
    name: str,
    source: ExportSource,
    target: Target,
    parity: ParityReport,
    evaluations: Sequence[EvaluationFacts] = (),
) -> str:
    """Write the card of a model.

    :param name: What the model is called.
    :param source: The model.
    :param target: The format that it was exported in.
    :param parity: How the exported model compares with ours.
    :param evaluations: What is known of it on test sets.
    :returns: Markdown, with the metadata that Hugging Face reads.
    :raises InputError: If a file of the run cannot be read.
    """
    checkpoint = source.checkpoint
    facts = None if checkpoint.run is None else read_run_facts(checkpoint.run)

    parts = [f"# {name}", _introduce(source, facts), "## Use", render_usage(target, source, name)]

    run: RunFacts | str | None = facts
    while isinstance(run, RunFacts):
        parts += describe_run(run)
        run = run.start

    for evaluation in evaluations:
        parts += _describe_evaluation(evaluation)

    parts += _describe_parity(target, parity)
    parts += _describe_licences(facts)
    parts.append(_describe_versions())

    metadata = _make_metadata(name, source, target, facts, evaluations)

    return f"---\n{metadata}\n---\n\n" + "\n\n".join(parts) + "\n"


def _make_metadata(
    name: str,
    source: ExportSource,
    target: Target,
    facts: RunFacts | None,
    evaluations: Sequence[EvaluationFacts],
) -> str:
    is_recognizer = source.vocabulary is not None

    results = [
        EvalResult(
            task_type="automatic-speech-recognition",
            dataset_type=evaluation.corpus,
            dataset_name=f"{evaluation.corpus} ({language})",
            dataset_split=evaluation.split,
            metric_type=metric,
            metric_name=metric.upper(),
            metric_value=round(100 * scores[metric]["value"], 2),
        )
        for evaluation in evaluations
        for language, scores in evaluation.scores.items()
        for metric in ("cer", "wer")
    ]

    data = ModelCardData(
        language=sorted({s.language for s in _list_sources(facts)}) or None,
        library_name="transformers" if target == "hf" else target,
        pipeline_tag="automatic-speech-recognition" if is_recognizer else "feature-extraction",
        tags=["speech", source.checkpoint.encoder_type, "eqssl_speech"],
        model_name=name,
        eval_results=results or None,
    )

    return data.to_yaml().strip()


def _list_sources(facts: RunFacts | None) -> list[SourceRow]:
    """List the sources of a run and of those before it."""
    sources: list[SourceRow] = []

    run: RunFacts | str | None = facts
    while isinstance(run, RunFacts):
        sources += run.sources
        run = run.start

    return sources


def _introduce(source: ExportSource, facts: RunFacts | None) -> str:
    checkpoint = source.checkpoint
    config = checkpoint.encoder_config

    kind = KINDS[checkpoint.encoder_type]
    what = "speech recogniser (CTC)" if source.vocabulary is not None else "speech encoder"
    num_parameters = sum(p.numel() for p in source.module.parameters()) / 1e6

    text = (
        f"A {kind} {what} of {num_parameters:.1f} million parameters: {config.num_encoder_layers} layers of "
        f"{config.model_dim} with {config.num_encoder_attn_heads} heads, for audio of {source.sample_rate} Hz."
    )

    if facts is None:
        origin = checkpoint.source if checkpoint.path is None else checkpoint.path.name

        return f"{text} It was converted from {origin}; how that was trained is to be read where it is from."

    return f"{text} It is the checkpoint of step {facts.step} of the run `{facts.name}`."


def _describe_evaluation(evaluation: EvaluationFacts) -> list[str]:
    rows = [["language", "utterances", "minutes", "CER, %", "WER, %"]]

    for language, scores in evaluation.scores.items():
        rows.append(
            [
                language,
                str(scores["utterances"]),
                f"{scores['audio_s'] / 60:.1f}",
                *(_format_rate(scores[name]) for name in ("cer", "wer")),
            ]
        )

    return [
        f"## Evaluation: {evaluation.corpus}, split `{evaluation.split}`",
        f"Decoding: {evaluation.decoding}. In brackets: what holds 95 % of bootstrap resamples.",
        render_table(rows),
    ]


def _format_rate(rate: Mapping[str, float | None]) -> str:
    low, high = rate["low"], rate["high"]
    bounds = "" if low is None or high is None else f" ({100 * low:.1f} to {100 * high:.1f})"

    return f"{100 * (rate['value'] or 0.0):.1f}{bounds}"


def _describe_parity(target: Target, parity: ParityReport) -> list[str]:
    rows = [["recordings", "longest, s", "features", "scores of labels"]]
    rows += [
        [
            c.case,
            f"{c.duration_s:.1f}",
            f"{c.features:.1e}",
            "" if c.logits is None else f"{c.logits:.1e}",
        ]
        for c in parity.comparisons
    ]

    texts = f" The texts of {len(parity.texts)} comparisons are the same." if parity.texts else ""

    return [
        "## The same numbers",
        f"Largest absolute differences between {_LIBRARIES[target]} with these files and eqssl_speech with the "
        f"checkpoint.{texts}",
        render_table(rows),
    ]


def _describe_licences(facts: RunFacts | None) -> list[str]:
    licences: dict[str, list[str]] = {}

    for source in _list_sources(facts):
        names = licences.setdefault(source.licence, [])
        if source.name not in names:
            names.append(source.name)

    lines = [f"- {licence}: {', '.join(names)}" for licence, names in licences.items()]
    recordings = ["The recordings that it was trained on are under:", "\n".join(lines)]

    return [
        "## Licence",
        *(recordings if lines else []),
        "The weights have the licence that their publisher gives them; add it as `license` to the metadata above.",
    ]


def _describe_versions() -> str:
    import torch

    return (
        f"Made by `eqssl export` of eqssl_speech {eqssl_speech.__version__} (Python {platform.python_version()}, "
        f"torch {torch.__version__})."
    )
