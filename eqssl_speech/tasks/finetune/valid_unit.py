"""The unit of the host's validator: error rates of one source, and the round that puts the sources together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Final, final

from fairseq2.evaluator import EvalUnit
from fairseq2.logging import log
from fairseq2.metrics import MetricBag
from fairseq2.metrics.recorders import MetricRecorder
from torch.nn import Module
from typing_extensions import override

from eqssl_speech.criteria.ctc import CtcCriterion, CtcOutput
from eqssl_speech.data.transcribed import TranscribedBatch, TranscribedUtterances
from eqssl_speech.decoding.error_rates import count_errors
from eqssl_speech.decoding.greedy import decode_greedy_batch
from eqssl_speech.decoding.hypothesis import Hypothesis
from eqssl_speech.tasks.errors import BlankOutputError
from eqssl_speech.tasks.finetune.config import SCORE_METRIC
from eqssl_speech.tasks.finetune.metrics import (
    Examples,
    UtteranceResult,
    UtteranceTable,
    summarize,
)
from eqssl_speech.text.tokenizer import CtcTokenizer

_RESULTS: Final = "results"
_EXAMPLES: Final = "examples"


@final
class CtcValidationRound:
    """Gathers the sources of one validation; the last one completes macro averages and the worst source."""

    def __init__(
        self,
        source_names: Sequence[str],
        recorder: MetricRecorder,
        explain_blanks: Callable[[Mapping[str, Mapping[str, float]], int], str | None],
        *,
        stop_on_blanks: bool,
    ) -> None:
        """
        :param source_names: The sources of a validation.
        :param recorder: Gets the macro averages, as category ``valid``.
        :param explain_blanks: Takes the values of all sources and the number of the update; says what to say if the
            model emits nothing.
        :param stop_on_blanks: Whether the run ends then.
        """
        self._source_names = source_names
        self._recorder = recorder
        self._explain_blanks = explain_blanks
        self._stop_on_blanks = stop_on_blanks
        self._rows: dict[str, dict[str, float]] = {}

    def add(self, source_name: str, step_nr: int, row: dict[str, float]) -> float | None:
        """Take the values of a source.

        :returns: The macro average of the character error rates in percent if this was the last source.
        :raises BlankOutputError: If the model emits nothing and the run is to stop then.
        """
        self._rows[source_name] = row

        if len(self._rows) < len(self._source_names):
            return None

        rows, self._rows = self._rows, {}

        return self._complete(rows, step_nr)

    def _complete(self, rows: dict[str, dict[str, float]], step_nr: int) -> float:
        macro = {
            f"macro_{name}": sum(row[name] for row in rows.values()) / len(rows)
            for name in ("wer", "cer")
        }

        worst = max(rows, key=lambda name: rows[name]["cer"])

        values: dict[str, object] = {
            "ctc_loss": sum(row["ctc_loss"] for row in rows.values()) / len(rows),
            **macro,
            "worst_source": worst,
            "worst_cer": rows[worst]["cer"],
        }

        self._recorder.record_metric_values("valid", values, step_nr)

        message = self._explain_blanks(rows, step_nr)
        if message is not None:
            if self._stop_on_blanks:
                raise BlankOutputError(
                    f"The run stops here, as `validation.stop_on_blanks` asks for. {message}"
                )

            log.warning(message)

        return macro[SCORE_METRIC]


@final
class FinetuneEvalUnit(EvalUnit[TranscribedBatch]):
    """Measures one source along the best path."""

    def __init__(
        self,
        source: TranscribedUtterances,
        module: Module,
        criterion: CtcCriterion,
        tokenizer: CtcTokenizer,
        validation_round: CtcValidationRound,
        *,
        num_examples: int,
    ) -> None:
        """
        :param source: The validation utterances.
        :param module: The base module; nothing is sent while it runs.
        :param criterion: The loss.
        :param tokenizer: Makes text of labels.
        :param validation_round: Is told the values.
        :param num_examples: How many utterances are shown.
        """
        self._source = source
        self._module = module
        self._criterion = criterion
        self._tokenizer = tokenizer
        self._round = validation_round
        self._examples = _spread(source.utterances.lengths.tolist(), num_examples)
        self._step_nr = 0

    @override
    def prepare_metric_bag(self, metric_bag: MetricBag) -> None:
        metric_bag.add(_RESULTS, UtteranceTable())
        metric_bag.add(_EXAMPLES, Examples())

    @override
    def set_train_step_nr(self, step_nr: int) -> None:
        self._step_nr = step_nr

    @override
    def process_batch(self, batch: TranscribedBatch, metric_bag: MetricBag) -> None:
        self._module.eval()

        output = self._criterion(self._module, batch)

        hypotheses = decode_greedy_batch(output.log_probs, output.num_frames)

        table = metric_bag.get(_RESULTS, UtteranceTable)

        for number, (index, hypothesis) in enumerate(zip(batch.indices, hypotheses)):
            text = self._tokenizer.decode(hypothesis.tokens)

            table.update(self._judge(output, number, index, hypothesis, text))

            if index in self._examples:
                metric_bag.get(_EXAMPLES, Examples).update(index, text)

    def _judge(
        self, output: CtcOutput, number: int, index: int, hypothesis: Hypothesis, text: str
    ) -> UtteranceResult:
        num_frames = int(output.num_frames[number])

        best = output.log_probs[number, :num_frames].argmax(dim=-1)

        return UtteranceResult(
            index,
            float(output.losses[number]),
            int(output.num_labels[number]),
            num_frames,
            int((best == self._tokenizer.blank_index).sum()),
            len(hypothesis.tokens),
            words=count_errors(self._source.texts[index], text, "word"),
            chars=count_errors(self._source.texts[index], text, "char"),
        )

    @override
    def process_metric_values(self, values: MutableMapping[str, object]) -> None:
        results, examples = values.pop(_RESULTS), values.pop(_EXAMPLES)

        assert isinstance(results, list)
        assert isinstance(examples, dict)

        row = summarize(results)

        values.update(row)

        self._name_impossible(results)

        for index in sorted(examples):
            log.info(
                "{} at step {}, {}:\n    said:  {}\n    heard: {}",
                self._source.source_name,
                self._step_nr,
                self._source.describe(index),
                self._source.texts[index],
                examples[index] or "(nothing)",
            )

        score = self._round.add(self._source.source_name, self._step_nr, row)
        if score is not None:
            # The host adds the scores of all units up; so only the last one has one.
            values[SCORE_METRIC] = score

    def _name_impossible(self, results: Sequence[UtteranceResult]) -> None:
        named = [self._source.describe(r.index) for r in results if r.loss == float("inf")]

        if named:
            log.warning(
                "Source {}: the labels of {} validation utterance(s) do not fit their frames, so they are not in "
                "`ctc_loss`: {}",
                self._source.source_name,
                len(named),
                ", ".join(named),
            )

    @property
    @override
    def name(self) -> str:
        return self._source.source_name


def _spread(lengths: Sequence[int], count: int) -> frozenset[int]:
    """Choose utterances over all lengths, the same ones each time."""
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))

    count = min(count, len(order))

    return frozenset(order[(2 * i + 1) * len(order) // (2 * count)] for i in range(count))
