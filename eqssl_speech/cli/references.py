"""What ``eqssl evaluate`` and ``eqssl align`` share: reading a split's texts, and telling what was left out."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eqssl_speech.tasks.evaluate.references import EvaluationSet, LeftOut
    from eqssl_speech.tasks.recognizer import Recognizer


def load_references(
    options: Namespace, split: str, recognizer: Recognizer, *, is_shown: bool = True
) -> EvaluationSet:
    """Read the manifests, texts and audio headers of a split, with a bar.

    :param options: The parsed options, with ``corpus``, ``source`` and ``jobs``.
    :param split: The split.
    :param recognizer: The model, by whose rules the texts are normalised.
    :param is_shown: Whether there is a bar.
    :raises InputError: As :func:`eqssl_speech.tasks.evaluate.references.load_evaluation_set`.
    """
    from eqssl_speech.console import show_progress
    from eqssl_speech.tasks.evaluate.references import load_evaluation_set

    with ExitStack() as stack:
        advance = None

        if is_shown:
            progress = stack.enter_context(show_progress())
            bar = progress.add_task("reading headers", total=None)

            def advance(count: int) -> None:
                progress.advance(bar, count)

        return load_evaluation_set(
            options.corpus,
            split,
            options.source,
            recognizer,
            num_workers=options.jobs,
            on_progress=advance,
        )


def print_left_out(
    left_out: Sequence[LeftOut], left_out_sources: Mapping[str, str], num_used: int
) -> None:
    """Name and count on the error stream what was left out.

    :param left_out: The utterances.
    :param left_out_sources: The sources, and why.
    :param num_used: The utterances that were not left out.
    """
    from eqssl_speech.tasks.transcribe.output import to_printable

    for utterance in left_out:
        print(to_printable(f"left out ({utterance.reason}): {utterance.message}"), file=sys.stderr)

    for name, reason in left_out_sources.items():
        print(to_printable(f"left out: {name}: {reason}"), file=sys.stderr)

    if left_out:
        reasons = Counter(utterance.reason for utterance in left_out).most_common()

        print(
            f"{len(left_out)} of {len(left_out) + num_used} utterances left out: "
            f"{', '.join(f'{count} {reason}' for reason, count in reasons)}.",
            file=sys.stderr,
        )
