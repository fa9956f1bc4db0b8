"""Aligns the reference texts of a corpus with their recordings; nothing is printed or written here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, final

from torch import Tensor

from eqssl_speech.data.audio import AudioError
from eqssl_speech.decoding.alignment import Word, align, to_words
from eqssl_speech.error import InputError
from eqssl_speech.tasks.evaluate.references import EvaluationSet, LeftOut, Reference
from eqssl_speech.tasks.transcribe.emission import emit_recordings
from eqssl_speech.tasks.transcribe.planning import EmissionOptions, make_grid
from eqssl_speech.tasks.transcribe.result import make_clock
from eqssl_speech.text.frames import min_frames

if TYPE_CHECKING:
    from eqssl_speech.tasks.recognizer import Recognizer

UNKNOWN_CHARACTERS: Final = "unknown characters"
"""Why an utterance is left out whose text the vocabulary cannot write: no model can say when ``<unk>`` is said."""

TOO_SHORT: Final = "too short for its labels"
"""Why an utterance is left out that has fewer frames than CTC needs for its text."""


@final
@dataclass(frozen=True)
class AlignedUtterance:
    """An utterance and when its words are said."""

    name: str
    """Its :attr:`Reference.id`, which is unique in its source; after ``source/`` if several sources were asked for."""

    reference: Reference
    """The utterance."""

    duration_s: float
    """Its length, in seconds."""

    words: tuple[Word, ...]
    """The words of its text, at least one."""


@final
@dataclass(frozen=True)
class Alignment:
    """What was aligned, and what was not."""

    utterances: tuple[AlignedUtterance, ...]
    """The utterances, source by source in the order of the manifests; at least one."""

    left_out: tuple[LeftOut, ...]
    """The utterances that could not be aligned."""

    left_out_sources: dict[str, str]
    """The sources of the corpus that have nothing to align, and why."""


@final
class AlignmentJob:
    """The alignment of a set of utterances; what cannot be aligned is known before anything is computed."""

    def __init__(
        self, evaluation_set: EvaluationSet, recognizer: Recognizer, options: EmissionOptions
    ) -> None:
        """
        :param evaluation_set: What is aligned.
        :param recognizer: The model.
        :param options: How much is given to the model at a time.
        :raises InputError: If nothing can be aligned.
        """
        self._set = evaluation_set
        self._recognizer = recognizer
        self._options = options
        self._has_one_source = (
            len(evaluation_set.sources) + len(evaluation_set.left_out_sources) == 1
        )
        self._left_out = list(evaluation_set.left_out)
        self._labels: dict[int, list[int]] = {}

        for index, reference in enumerate(evaluation_set.references):
            labels = recognizer.tokenizer.encode(reference.text)
            fault = self._find_fault(reference, labels)

            if fault is None:
                self._labels[index] = labels
            else:
                self._left_out.append(fault)

        if not self._labels:
            raise InputError(self._explain_nothing())

    @property
    def num_utterances(self) -> int:
        """The utterances that are to be aligned."""
        return len(self._labels)

    @property
    def audio_s(self) -> float:
        """Their length, in seconds."""
        return sum(self._measure(self._set.references[index]) for index in self._labels)

    def run(self, *, on_progress: Callable[[float], None] | None = None) -> Alignment:
        """Compute and align.

        :param on_progress: Called with the length in seconds of each utterance that was dealt with.
        :raises InputError: If the model cannot be used, an option is out of its range, or no recording can be read.
        """
        references = self._set.references

        # The longest first: little padding, and what the memory does not hold shows at once.
        order = sorted(self._labels, key=lambda i: (-references[i].item.num_samples, i))
        items = [references[index].item for index in order]

        aligned: dict[int, AlignedUtterance] = {}

        for position, result in emit_recordings(self._recognizer, items, self._options):
            index = order[position]
            reference = references[index]

            if isinstance(result, AudioError):
                self._left_out.append(
                    LeftOut(reference.id, reference.source, result.reason, str(result))
                )
            else:
                aligned[index] = self._align(reference, self._labels[index], result)

            if on_progress is not None:
                on_progress(self._measure(reference))

        if not aligned:
            raise InputError(self._explain_nothing())

        utterances = tuple(aligned[index] for index in sorted(aligned))

        return Alignment(utterances, tuple(self._left_out), self._list_left_out_sources(utterances))

    def _list_left_out_sources(self, utterances: Sequence[AlignedUtterance]) -> dict[str, str]:
        used = {utterance.reference.source for utterance in utterances}
        counts = Counter(left_out.source for left_out in self._left_out)

        return self._set.left_out_sources | {
            source.name: f"none of its {counts[source.name]} utterances can be aligned"
            for source in self._set.sources
            if source.name not in used
        }

    def _align(
        self, reference: Reference, labels: list[int], log_probs: Tensor
    ) -> AlignedUtterance:
        tokenizer = self._recognizer.tokenizer
        clock = make_clock(self._recognizer)

        spans = align(log_probs, labels, tokenizer.blank_index)
        words = to_words(spans, tokenizer.vocabulary, log_probs.size(0), clock=clock)

        name = reference.id if self._has_one_source else f"{reference.source}/{reference.id}"

        return AlignedUtterance(name, reference, self._measure(reference), tuple(words))

    def _measure(self, reference: Reference) -> float:
        return reference.item.num_samples / self._recognizer.sample_rate

    def _find_fault(self, reference: Reference, labels: list[int]) -> LeftOut | None:
        tokenizer = self._recognizer.tokenizer

        def leave_out(reason: str, message: str) -> LeftOut:
            message = f"{reference.item.path}: {message}"

            return LeftOut(reference.id, reference.source, reason, message)

        if tokenizer.unk_index in labels:
            unknown = sorted(set(reference.text) - tokenizer.alphabet - {" "})
            shown = ", ".join(f"`{char}`" for char in unknown)

            return leave_out(
                UNKNOWN_CHARACTERS, f"the text has {shown}, which the model's vocabulary lacks"
            )

        num_frames = make_grid(self._recognizer).count(reference.item.num_samples)
        needed = min_frames(labels)

        if num_frames < needed:
            return leave_out(
                TOO_SHORT, f"has {num_frames} frames, but its {len(labels)} labels need {needed}"
            )

        return None

    def _explain_nothing(self) -> str:
        return (
            f"{self._set.corpus}: no utterance of the split `{self._set.split}` can be aligned; the first of "
            f"{len(self._left_out)}: {self._left_out[0].message}. Run `eqssl check --ctc` on the corpus with the "
            "model's tokenizer."
        )
