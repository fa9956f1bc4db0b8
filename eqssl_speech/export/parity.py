"""Whether an exported model computes what ours does: on real recordings, alone and together, short and long."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias, final

import numpy as np
import numpy.typing as npt
from torch import Tensor

from eqssl_speech.data.audio import AudioError, AudioFormat, probe_audio, read_audio
from eqssl_speech.data.manifest import ManifestEntry
from eqssl_speech.error import InputError
from eqssl_speech.export.model import Outputs, Runner
from eqssl_speech.export.vocabulary import Vocabulary
from eqssl_speech.tasks.transcribe.inputs import find_inputs

Waveform: TypeAlias = npt.NDArray[np.float32]

Computer: TypeAlias = Callable[[Sequence[Waveform]], Outputs]
"""Computes recordings in one batch, as :meth:`~eqssl_speech.export.model.Runner.run`."""

Transcriber: TypeAlias = Callable[[Sequence[Waveform]], list[str]]
"""Turns recordings into text."""

TOLERANCE: Final = 1e-4
"""The largest difference that is accepted, as a share of the largest number on our side, or of 1 if that is larger.
What two libraries add up in different order differs by about a hundredth of it."""

OWN_TOLERANCE: Final = 1e-2
"""The same where a library prepares the recordings in its own way."""

_SAMPLE: Final = Path(__file__).parents[2] / "recipes" / "quickstart" / "corpus"

_MAX_NUM_RECORDINGS: Final = 20
_MAX_S: Final = 10.0
_SHORT_S: Final = 0.2
_LONG_S: Final = 30.0


@final
@dataclass(frozen=True)
class Comparison:
    """How far two models are apart on some recordings."""

    case: str
    """Which recordings, in words."""

    duration_s: float
    """How long the longest of them is."""

    features: float
    """The largest absolute difference of the encoder's output."""

    logits: float | None
    """Of a recogniser, the largest absolute difference of the scores of labels."""

    is_equal: bool
    """Whether both are within the tolerance, and finite."""


@final
@dataclass(frozen=True)
class ParityReport:
    """How far an exported model is from ours."""

    comparisons: tuple[Comparison, ...]

    texts: Sequence[tuple[str, str]]
    """Of a recogniser, our text of each recording and the exported model's."""

    num_ties: int
    """How many recordings were left out of that because two labels of a frame are so close that rounding decides."""

    @property
    def is_equal(self) -> bool:
        """Whether the two are the same, but for rounding."""
        return all(c.is_equal for c in self.comparisons) and not self.num_other_texts

    @property
    def num_other_texts(self) -> int:
        """How many recordings have another text."""
        return sum(ours != theirs for ours, theirs in self.texts)


def read_recordings(arguments: Sequence[str] | None, sample_rate: int) -> list[Waveform]:
    """Read recordings to compare on.

    :param arguments: Files, folders and patterns; by default the sample that ships with the repository. At most 20 are
        taken, spread over all, and 10 seconds of each.
    :param sample_rate: What the model takes, in Hz; others are converted.
    :raises InputError: If there is no recording, or one cannot be read.
    """
    if arguments is None:
        if not _SAMPLE.is_dir():
            raise InputError(
                "The sample of recordings, on which the exported model is compared with ours, is not there, as "
                "eqssl_speech does not run from its repository; give some with `--recordings`."
            )

        arguments = [str(_SAMPLE)]

    files = find_inputs(arguments).files
    places = np.linspace(0, len(files) - 1, min(len(files), _MAX_NUM_RECORDINGS)).round()

    fmt = AudioFormat(sample_rate=sample_rate, resample=True, downmix=True)
    waveforms = []

    for place in places.astype(int):
        path = files[place].path
        try:
            info = probe_audio(path)
            entry = ManifestEntry(str(path), info.num_samples)
            length = fmt.convert_length(info.num_samples, info.sample_rate)
            waveforms.append(
                read_audio(path, entry, fmt, num_samples=min(length, int(_MAX_S * sample_rate)))
            )
        except AudioError as ex:
            raise InputError(f"{ex}; give other `--recordings`.") from None

    return waveforms


def compare(
    ours: Runner,
    theirs: Runner,
    waveforms: Sequence[Waveform],
    sample_rate: int,
    *,
    vocabulary: Vocabulary | None = None,
    prepared_by_them: Computer | None = None,
    transcribers: Sequence[Transcriber] = (),
    on_progress: Callable[[], None] = lambda: None,
) -> ParityReport:
    """Compare an exported model with ours.

    :param ours: Our model.
    :param theirs: The exported one, read back and computed by the library that it is for.
    :param waveforms: Recordings, at least one.
    :param sample_rate: Their sample rate, in Hz.
    :param vocabulary: Of a recogniser, its labels.
    :param prepared_by_them: Computes the exported model on recordings as its library prepares them, if that differs.
    :param transcribers: Whatever turns recordings into text with the exported model; each is compared.
    :param on_progress: Called after each case.
    """
    comparisons = []

    for case, batch in _make_cases(waveforms, sample_rate):
        comparisons.append(_compare(case, ours, theirs.run, batch, sample_rate, TOLERANCE))
        on_progress()

    if prepared_by_them is not None:
        comparisons.append(
            _compare(
                "all, prepared by it", ours, prepared_by_them, waveforms, sample_rate, OWN_TOLERANCE
            )
        )
        on_progress()

    texts: list[tuple[str, str]] = []
    clear: list[Waveform] = []

    if vocabulary is not None:
        recognised = [(w, _recognise(ours, vocabulary, w)) for w in waveforms]

        clear = [w for w, (_, is_clear) in recognised if is_clear]
        expected = [text for _, (text, is_clear) in recognised if is_clear]

        def recognise(waveforms: Sequence[Waveform]) -> list[str]:
            return [_recognise(theirs, vocabulary, w)[0] for w in waveforms]

        for transcribe in (recognise, *transcribers):
            texts += zip(expected, transcribe(clear), strict=True)
            on_progress()

    num_ties = 0 if vocabulary is None else len(waveforms) - len(clear)

    return ParityReport(tuple(comparisons), texts, num_ties)


def _make_cases(
    waveforms: Sequence[Waveform], sample_rate: int
) -> list[tuple[str, list[Waveform]]]:
    by_length = sorted(waveforms, key=len)
    shortest, middle, longest = by_length[0], by_length[len(by_length) // 2], by_length[-1]

    whole = np.concatenate(list(waveforms))
    long = np.resize(whole, int(_LONG_S * sample_rate))

    return [
        ("alone", [middle]),
        ("padded together", [middle, shortest, longest]),
        ("short", [middle[: int(_SHORT_S * sample_rate)]]),
        ("long", [long]),
    ]


def _compare(
    case: str,
    ours: Runner,
    theirs: Computer,
    batch: Sequence[Waveform],
    sample_rate: int,
    tolerance: float,
) -> Comparison:
    expected, actual = ours.run(batch), theirs(batch)

    features, is_equal = _find_difference(case, expected.features, actual.features, tolerance)
    logits = None

    if expected.logits is not None:
        assert actual.logits is not None

        logits, are_equal = _find_difference(case, expected.logits, actual.logits, tolerance)
        is_equal = is_equal and are_equal

    return Comparison(case, max(map(len, batch)) / sample_rate, features, logits, is_equal)


def _find_difference(
    case: str, expected: Sequence[Tensor], actual: Sequence[Tensor], tolerance: float
) -> tuple[float, bool]:
    difference, size = 0.0, 1.0

    for mine, other in zip(expected, actual, strict=True):
        if mine.shape != other.shape:
            raise InputError(
                f"The exported model has an output of the shape {tuple(other.shape)} for a recording ({case}) of which "
                f"ours has {tuple(mine.shape)}, so the export is wrong; nothing was written. Please report this."
            )

        # Not a number is never less than anything, so that it is not taken for no difference.
        distance = float((mine - other).abs().max())
        difference = distance if not distance <= difference else difference
        size = max(size, float(mine.abs().max()))

    return difference, difference <= tolerance * size


def _recognise(runner: Runner, vocabulary: Vocabulary, waveform: Waveform) -> tuple[str, bool]:
    """Return the text of a recording, and whether no label of it hangs on rounding."""
    logits = runner.run([waveform]).logits

    assert logits is not None

    (scores,) = logits
    best, second = scores.topk(2, dim=-1).values.unbind(dim=-1)
    is_clear = float((best - second).min()) > TOLERANCE * max(1.0, float(scores.abs().max()))

    return vocabulary.decode(scores.argmax(dim=-1).tolist()), is_clear
