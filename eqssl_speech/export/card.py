"""Model cards: what a model is, what it was trained on, how, and with what result. Numbers are read from the run."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from typing import Final

from huggingface_hub import EvalResult, ModelCardData

import eqssl_speech
from eqssl_speech.error import InputError
from eqssl_speech.export import Target
from eqssl_speech.export.card_run import KINDS, describe_run, render_table
from eqssl_speech.export.card_usage import render_usage
from eqssl_speech.export.loading import ExportSource
from eqssl_speech.export.parity import ParityReport
from eqssl_speech.report.evaluation_facts import EvaluationFacts, Interval
from eqssl_speech.report.run_facts import RunFacts, read_run_facts
from eqssl_speech.report.sources import SourceRow

CARD_FILE: Final = "README.md"

_LIBRARIES: Final[Mapping[Target, str]] = {
    "hf": "transformers",
    "torchaudio": "torchaudio",
    "onnx": "onnxruntime",
    "fairseq2": "fairseq2",
}


def read_facts(source: ExportSource, evaluations: Sequence[EvaluationFacts]) -> RunFacts | None:
    """Read what the run of a model says of it.

    :param source: The model.
    :param evaluations: Evaluations, which have to be of this model.
    :returns: ``None`` if it is of no run.
    :raises InputError: If a file of the run cannot be read, or an evaluation is of another model.
    """
    run = source.checkpoint.run
    facts = None if run is None else read_run_facts(run)

    for evaluation in evaluations:
        if source.vocabulary is None or (
            facts is not None and not evaluation.is_of(facts.name, facts.step)
        ):
            raise InputError(
                f"{evaluation.file}: is an evaluation of {evaluation.model}, and this is {source.checkpoint.source}; "
                "give one of the same step."
            )

    return facts


def render_card(
    name: str,
    source: ExportSource,
    target: Target,
    parity: ParityReport,
    facts: RunFacts | None,
    evaluations: Sequence[EvaluationFacts] = (),
) -> str:
    """Write the card of a model.

    :param name: What the model is called.
    :param source: The model.
    :param target: The format that it was exported in.
    :param parity: How the exported model compares with ours.
    :param facts: What :func:`read_facts` has read.
    :param evaluations: What is known of it on test sets.
    :returns: Markdown, with the metadata that Hugging Face reads.
    """
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
    sources = facts.sources if facts is not None and is_recognizer else _list_sources(facts)

    results = [
        EvalResult(
            task_type="automatic-speech-recognition",
            dataset_type=evaluation.corpus,
            dataset_name=f"{evaluation.corpus} ({language})",
            dataset_split=evaluation.split,
            metric_type=metric,
            metric_name=metric.upper(),
            metric_value=round(100 * rate, 2),
        )
        for evaluation in evaluations
        for language, scores in evaluation.languages.items()
        for metric, rate in (("cer", scores.cer), ("wer", scores.wer))
    ]

    data = ModelCardData(
        # A recogniser writes those that it was fine-tuned on, an encoder knows all that it has heard.
        language=sorted({s.language for s in sources}) or None,
        library_name="transformers" if target == "hf" else target,
        pipeline_tag="automatic-speech-recognition" if is_recognizer else "feature-extraction",
        tags=["speech", source.checkpoint.encoder_type, "eqssl_speech"],
        model_name=name,
        eval_results=results or None,
    )

    return data.to_yaml().strip()


def _list_sources(facts: RunFacts | None) -> Sequence[SourceRow]:
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
    num_parameters = sum(p.numel() for p in source.make_plain().parameters()) / 1e6

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

    for language, scores in evaluation.languages.items():
        rows.append(
            [
                language,
                str(scores.num_utterances),
                f"{scores.audio_s / 60:.1f}",
                _format_rate(scores.cer, scores.cer_interval),
                _format_rate(scores.wer, scores.wer_interval),
            ]
        )

    return [
        f"## Evaluation: {evaluation.corpus}, split `{evaluation.split}`",
        f"Decoding: {evaluation.decoding}. In brackets: what holds 95 % of bootstrap resamples.",
        render_table(rows),
    ]


def _format_rate(rate: float, interval: Interval | None) -> str:
    bounds = "" if interval is None else f" ({100 * interval[0]:.1f} to {100 * interval[1]:.1f})"

    return f"{100 * rate:.1f}{bounds}"


def _describe_parity(target: Target, parity: ParityReport) -> list[str]:
    rows = [["recordings", "longest, s", "features"]]
    rows += [[c.case, f"{c.duration_s:.1f}", f"{c.features:.1e}"] for c in parity.comparisons]

    if any(c.logits is not None for c in parity.comparisons):
        rows[0].append("scores of labels")
        for row, c in zip(rows[1:], parity.comparisons):
            row.append("" if c.logits is None else f"{c.logits:.1e}")

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
    text = ["The recordings that it was trained on are under:", "\n".join(lines)] if lines else []

    first = facts
    while first is not None and isinstance(first.start, RunFacts):
        first = first.start

    if first is None or first.start is not None:
        what = "it" if first is None else f"`{first.start}`, from which this started,"
        text.append(
            f"What {what} was trained on is not known here, nor under which licences that is."
        )

    return [
        "## Licence",
        *text,
        "The weights have the licence that their publisher gives them; add it as `license` to the metadata above.",
    ]


def _describe_versions() -> str:
    import torch

    return (
        f"Made by `eqssl export` of eqssl_speech {eqssl_speech.__version__} (Python {platform.python_version()}, "
        f"torch {torch.__version__})."
    )
