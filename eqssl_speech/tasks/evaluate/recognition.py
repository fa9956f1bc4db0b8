"""Recognises the utterances of an evaluation set, alone or as one of several processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from eqssl_speech.error import InputError
from eqssl_speech.tasks.evaluate.gang import Gang
from eqssl_speech.tasks.evaluate.references import EvaluationSet, LeftOut
from eqssl_speech.tasks.evaluate.scores import Bootstrap, Evaluation, ScoredUtterance, evaluate
from eqssl_speech.tasks.transcribe.decoder import Search
from eqssl_speech.tasks.transcribe.emission import Emitter, ReadFailure
from eqssl_speech.tasks.transcribe.planning import Batch, EmissionOptions, plan_batches
from eqssl_speech.tasks.transcribe.result import HypothesisJoiner

if TYPE_CHECKING:
    from eqssl_speech.tasks.recognizer import Recognizer


@final
@dataclass(frozen=True)
class _Outcome:
    """What became of an utterance; exchanged between processes."""

    index: int
    hypothesis: str | None
    reason: str = ""
    message: str = ""


@final
class EvaluationJob:
    """The evaluation of a model on a set; the batches, and so the numbers, are those of one process."""

    def __init__(
        self,
        evaluation_set: EvaluationSet,
        recognizer: Recognizer,
        search: Search,
        options: EmissionOptions,
        gang: Gang,
    ) -> None:
        """
        :param evaluation_set: What is evaluated.
        :param recognizer: The model.
        :param search: The search.
        :param options: How much is given to the model at a time.
        :param gang: The processes among which the batches are dealt out.
        :raises InputError: If an option is out of its range.
        """
        self._set = evaluation_set
        self._recognizer = recognizer
        self._search = search
        self._options = options
        self._gang = gang

        # The longest first: little padding, and what the processes get is about as much.
        lengths = [reference.item.num_samples for reference in evaluation_set.references]
        self._order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))

        units = plan_batches([lengths[i] for i in self._order], recognizer, options)
        self._batches: list[Batch] = [batch for unit in gang.deal(units) for batch in unit]

    @property
    def num_utterances(self) -> int:
        """The utterances that this process recognises."""
        return sum(piece.is_last for batch in self._batches for piece in batch)

    @property
    def audio_s(self) -> float:
        """Their length, in seconds."""
        indices = [self._order[p.item] for batch in self._batches for p in batch if p.is_last]

        return sum(self._measure(index) for index in indices)

    def run(
        self, bootstrap: Bootstrap, *, on_progress: Callable[[float], None] | None = None
    ) -> Evaluation:
        """Recognise, exchange with the other processes, and count.

        :param bootstrap: How intervals are estimated.
        :param on_progress: Called with the length in seconds of each utterance that this process has dealt with.
        :returns: The errors, the same on all processes.
        :raises InputError: If the model cannot be used, or no recording can be read.
        """
        outcomes = []

        for outcome in self._recognize():
            outcomes.append(outcome)

            if on_progress is not None:
                on_progress(self._measure(outcome.index))

        outcomes = sorted(self._gang.gather(outcomes), key=lambda outcome: outcome.index)

        return self._evaluate(outcomes, bootstrap)

    def _measure(self, index: int) -> float:
        return self._set.references[index].item.num_samples / self._recognizer.sample_rate

    def _recognize(self) -> Iterator[_Outcome]:
        items = [self._set.references[index].item for index in self._order]
        joiners: dict[int, HypothesisJoiner] = {}

        for event in Emitter(self._recognizer, items, self._options).emit(self._batches):
            index = self._order[event.item]

            if isinstance(event, ReadFailure):
                yield _Outcome(index, None, event.error.reason, str(event.error))
                continue

            joiner = joiners.setdefault(
                event.item, HypothesisJoiner(self._search, self._recognizer.tokenizer)
            )
            joiner.add(event)

            if event.is_last:
                del joiners[event.item]

                yield _Outcome(index, self._recognizer.tokenizer.decode(joiner.list_tokens()))

    def _evaluate(self, outcomes: list[_Outcome], bootstrap: Bootstrap) -> Evaluation:
        utterances, left_out = [], list(self._set.left_out)

        for outcome in outcomes:
            reference = self._set.references[outcome.index]

            if outcome.hypothesis is None:
                left_out.append(
                    LeftOut(reference.id, reference.source, outcome.reason, outcome.message)
                )
                continue

            utterances.append(
                ScoredUtterance.score(
                    reference.id,
                    reference.source,
                    self._measure(outcome.index),
                    reference.text,
                    outcome.hypothesis,
                )
            )

        if not utterances:
            raise InputError(
                f"{self._set.corpus}: no recording can be read; the first of {len(left_out)}: {left_out[0].message}. "
                "Run `eqssl check` on the corpus."
            )

        scored = {utterance.source for utterance in utterances}
        unread = {
            source.name: "none of its recordings can be read"
            for source in self._set.sources
            if source.name not in scored
        }

        return evaluate(
            [source for source in self._set.sources if source.name in scored],
            utterances,
            left_out,
            self._set.left_out_sources | unread,
            bootstrap,
        )
