"""What a model card says of a run: method, data and validation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from eqssl_speech.report.run_facts import RunFacts
from eqssl_speech.report.runs import Row, get_number

KINDS: Final = {"wav2vec2": "wav2vec 2.0", "hubert": "HuBERT"}
"""What models are called in the field, by family."""

_PAPER: Final = "[arXiv 2508.19990](https://arxiv.org/abs/2508.19990)"


def describe_run(run: RunFacts) -> list[str]:
    """Say what a run was trained on, how, and what its validation found.

    :param run: The run.
    :returns: Paragraphs of Markdown.
    """
    is_finetuning = run.family == "wav2vec2_asr"
    what = "Fine-tuning" if is_finetuning else f"Pre-training ({KINDS[run.family]})"

    return [
        f"## {what}: `{run.name}`",
        "\n".join(f"- {line}" for line in _list_method(run)),
        _render_sources(run),
        *_render_validation(run),
    ]


def _list_method(run: RunFacts) -> Iterable[str]:
    if run.family == "wav2vec2_asr":
        yield _describe_weighting(run)
    else:
        yield _describe_equilibrium(run)

    planned = run.setting("regime", "num_steps")
    of = f" of {planned}" if planned is not None and planned != run.step else ""
    heard = (
        "" if run.heard_hours is None else f", {run.heard_hours:.2f} hours of audio with repeats"
    )
    seconds = run.setting("dataset", "audio_seconds_per_update")
    budget = "" if seconds is None else f"; an update has at most {seconds:g} s"

    yield f"{run.step}{of} updates{heard}{budget}."

    section = ("optimizer", "config", "base") if _wraps_optimizer(run) else ("optimizer",)
    optimizer = run.setting(*section, "name")

    if optimizer is not None:
        lr = run.setting(*section, "config", "lr")
        yield (
            f"Optimizer `{optimizer}`{'' if lr is None else f', learning rate {lr:g}'}, schedule "
            f"`{run.setting('lr_scheduler', 'name')}`, seed {run.setting('common', 'seed')}, mixed precision "
            f"`{run.setting('trainer', 'mixed_precision', 'mode')}`."
        )

    if run.start is None:
        yield "It started from random weights."
    elif isinstance(run.start, RunFacts):
        yield f"It started from step {run.start.step} of `{run.start.name}` (below)."
    else:
        yield f"It started from `{run.start}`."


def _wraps_optimizer(run: RunFacts) -> bool:
    """Whether the method is the optimizer component, not a section of its own."""
    return bool(run.setting("optimizer", "name") == "equilibrium")


def _describe_equilibrium(run: RunFacts) -> str:
    section = ("optimizer", "config") if _wraps_optimizer(run) else ("equilibrium",)

    num_steps = run.setting(*section, "num_inner_steps")
    start = run.setting(*section, "start_after_num_steps") or 0

    if not num_steps or run.step <= start:
        return "Conventional training: the average of the sources' losses is minimised."

    others = [
        f"`{name}` {run.setting(*section, name)}"
        for name in ("inner_max_grad_norm", "normalize_inner_grad", "precondition")
        if run.setting(*section, name)
    ]
    if start:
        others.append(f"after {start} updates of conventional training")

    return (
        f"Equilibrium constraints ({_PAPER}): {num_steps} gradient step(s) from the model are to reach a local optimum "
        f"of each source; `inner_lr` {run.setting(*section, 'inner_lr'):g}, outer weights "
        f"`{run.setting(*section, 'outer_weights')}`, order `{run.setting(*section, 'order')}`"
        f"{''.join(f', {other}' for other in others)}."
    )


def _describe_weighting(run: RunFacts) -> str:
    frozen = run.setting("freeze", "feature_extractor") and run.start is not None
    minutes = run.setting("dataset", "max_minutes_per_source")

    return (
        f"CTC; the losses of sources are weighted by `{run.setting('weighting', 'method')}`"
        f"{'; the convolutions stay as they were' if frozen else ''}"
        f"{f'; at most {minutes:g} minutes of labels per source' if minutes else ''}."
    )


def _render_sources(run: RunFacts) -> str:
    planned = run.setting("regime", "num_steps")
    rows = [["source", "language", "domain", "hours", "utterances", "share", "passes", "licence"]]

    for source in run.sources:
        # How often it was gone through until now, of what was planned for the whole run.
        passes = ""
        if source.expected_passes is not None and planned:
            passes = f"{source.expected_passes * run.step / planned:.2f}"

        rows.append(
            [
                source.name,
                source.language,
                source.domain,
                f"{source.hours:.2f}",
                str(source.utterances),
                f"{100 * source.share:.1f} %",
                passes,
                source.licence,
            ]
        )

    return render_table(rows, num_words=3)


_PRETRAINING_COLUMNS: Final = (
    ("plain_loss", "loss", 1.0, 3),
    ("adapted_loss", "adapted", 1.0, 3),
    ("adaptation_gain", "gain", 1.0, 4),
    ("chance", "chance", 1.0, 3),
    ("accuracy", "accuracy, %", 100.0, 1),
    ("majority_share", "commonest label, %", 100.0, 1),
)

_FINETUNING_COLUMNS: Final = (
    ("macro_cer", "CER, %", 1.0, 1),
    ("cer", "CER, %", 1.0, 1),
    ("macro_wer", "WER, %", 1.0, 1),
    ("wer", "WER, %", 1.0, 1),
    ("ctc_loss", "loss", 1.0, 3),
)


def _render_validation(run: RunFacts) -> list[str]:
    if not run.valid:
        return ["It was not validated before this step."]

    is_finetuning = run.family == "wav2vec2_asr"
    columns = _FINETUNING_COLUMNS if is_finetuning else _PRETRAINING_COLUMNS
    titles = list(dict.fromkeys(title for _, title, _, _ in columns))

    cells = {
        name: _format(row, columns)
        for name, row in [*run.valid.items(), ("macro average", run.macro)]
    }
    titles = [t for t in titles if any(t in row for row in cells.values())]

    rows = [["source", *titles]]
    rows += [[name, *(row.get(title, "") for title in titles)] for name, row in cells.items()]

    legend = (
        "Validation split after"
        if is_finetuning
        else "Losses in bits at the model's parameters and, adapted, after gradient steps on training audio of the "
        "source, validation split after"
    )

    return [f"{legend} step {run.valid_step}:", render_table(rows)]


def _format(row: Row, columns: Sequence[tuple[str, str, float, int]]) -> dict[str, str]:
    cells = {}

    for key, title, factor, num_digits in columns:
        value = get_number(row, key)
        if value is not None:
            cells[title] = f"{factor * value:.{num_digits}f}"

    return cells


def render_table(rows: Sequence[Sequence[str]], num_words: int = 1) -> str:
    """Write a table of Markdown.

    :param rows: The titles, and the rows.
    :param num_words: So many of the first columns hold words; numbers are aligned to the right.
    """
    rule = ["---" if i < num_words else "---:" for i in range(len(rows[0]))]

    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"
        for row in [rows[0], rule, *rows[1:]]
    )
