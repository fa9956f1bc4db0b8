"""What ``eqssl evaluate``, ``transcribe`` and ``align`` share: the model, the device, the search."""

from __future__ import annotations

import os
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, final

from eqssl_speech.cli.common import positive_int

if TYPE_CHECKING:
    from eqssl_speech.tasks.evaluate.tuning import TunedSearch
    from eqssl_speech.tasks.recognizer import Recognizer
    from eqssl_speech.tasks.transcribe.decoder import Search, SearchOptions
    from eqssl_speech.tasks.transcribe.planning import EmissionOptions


@final
@dataclass(frozen=True)
class Recognition:
    """A model and how it is used."""

    recognizer: Recognizer
    search: Search
    search_options: SearchOptions
    options: EmissionOptions


def add_recognition(parser: ArgumentParser, *, batch_s: float | None = None) -> None:
    """Add the options of the model, the device and the search.

    :param parser: The parser.
    :param batch_s: The audio recognised at once, in seconds; ``None`` to have it depend on the device.
    """
    add_emission(parser, batch_s=batch_s)

    search = parser.add_argument_group("search (default: greedy)")
    search.add_argument("--lm", metavar="FILE", type=Path, help="word n-gram of `eqssl lm`")
    search.add_argument(
        "--lm-weight", metavar="X", type=float, help="factor of its log-probability"
    )
    search.add_argument("--word-score", metavar="X", type=float, help="added for each word")
    search.add_argument(
        "--beam-size", metavar="N", type=positive_int, help="hypotheses kept after each frame"
    )


def add_emission(parser: ArgumentParser, *, batch_s: float | None = None) -> None:
    """Add the options of the model and the device.

    :param parser: The parser.
    :param batch_s: As in :func:`add_recognition`.
    """
    parser.add_argument(
        "--step", metavar="N", type=positive_int, help="checkpoint to take (default: the best)"
    )
    parser.add_argument("--device", help="cpu or cuda (default: cuda where there is one)")
    parser.add_argument(
        "--max-segment-s",
        metavar="S",
        type=positive_float,
        default=20.0,
        help="longer recordings are cut into windows of this length (default: 20)",
    )
    parser.add_argument(
        "--batch-seconds",
        metavar="S",
        type=positive_float,
        default=batch_s,
        help=f"audio recognised at once (default: {f'{batch_s:g}' if batch_s else '20 on CPU, 160 on a GPU'})",
    )


def load_recognition(options: Namespace) -> Recognition:
    """Load the model that was asked for.

    :param options: The parsed options, with ``model``, ``jobs`` and those of :func:`add_recognition`.
    :raises InputError: If the model, the device or the language model cannot be used.
    """
    from eqssl_speech.tasks.transcribe.decoder import SearchOptions, make_search

    recognizer, emission_options = load_emission(options)

    search_options = SearchOptions(
        lm=options.lm,
        lm_weight=options.lm_weight,
        word_score=options.word_score,
        beam_size=options.beam_size,
    )

    search = make_search(recognizer.tokenizer, search_options)

    return Recognition(recognizer, search, search_options, emission_options)


def load_emission(options: Namespace) -> tuple[Recognizer, EmissionOptions]:
    """Load the model that was asked for, without a search.

    :param options: The parsed options, with ``model``, ``jobs`` and those of :func:`add_emission`.
    :returns: The model, and how much it is given at a time.
    :raises InputError: If the model or the device cannot be used.
    """
    from eqssl_speech.tasks.recognizer import load_recognizer
    from eqssl_speech.tasks.transcribe.planning import EmissionOptions

    device = choose_device(options.device)

    recognizer = load_recognizer(options.model, device=device, step=options.step)

    batch_s = options.batch_seconds or (160.0 if device.startswith("cuda") else 20.0)

    emission_options = EmissionOptions(
        max_segment_s=options.max_segment_s, batch_s=batch_s, num_readers=options.jobs
    )

    return recognizer, emission_options


def apply_tuning(recognition: Recognition, tuned: TunedSearch) -> Recognition:
    """Return the same with the weights that were chosen."""
    from eqssl_speech.tasks.transcribe.decoder import make_search

    search_options = tuned.apply(recognition.search_options)

    search = make_search(recognition.recognizer.tokenizer, search_options)

    return replace(recognition, search=search, search_options=search_options)


def choose_device(wanted: str | None) -> str:
    """Choose where to compute: of several processes, each has a GPU of its own.

    :param wanted: ``None`` for the fastest there is, ``cuda`` for any GPU, or a device.
    """
    import torch

    if wanted not in (None, "cuda") or not torch.cuda.is_available():
        return wanted or "cpu"

    local_rank = int(os.environ.get("LOCAL_RANK", "0"))

    return f"cuda:{local_rank % torch.cuda.device_count()}"


def positive_float(text: str) -> float:
    """Parse a number greater than 0, for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0

    if not 0.0 < value < float("inf"):
        raise ArgumentTypeError(f"must be a number greater than 0, but is {text!r} instead")

    return value
