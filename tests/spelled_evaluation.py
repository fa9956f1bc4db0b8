"""Evaluation of a stand-in for a recogniser on spelled audio."""

from __future__ import annotations

from pathlib import Path

from spelled_audio import SpelledRecognizer

from eqssl_speech.decoding.greedy import decode_greedy
from eqssl_speech.tasks.evaluate.gang import Gang
from eqssl_speech.tasks.evaluate.recognition import EvaluationJob
from eqssl_speech.tasks.evaluate.references import load_evaluation_set
from eqssl_speech.tasks.evaluate.scores import Bootstrap, Evaluation
from eqssl_speech.tasks.transcribe.decoder import Search
from eqssl_speech.tasks.transcribe.planning import EmissionOptions

OPTIONS = EmissionOptions(batch_s=15.0, num_readers=2)

BOOTSTRAP = Bootstrap(num_resamples=200, seed=3)


def run(
    corpus: Path,
    *,
    split: str = "test",
    names: list[str] | None = None,
    options: EmissionOptions = OPTIONS,
    recognizer: SpelledRecognizer | None = None,
) -> Evaluation:
    model = recognizer or SpelledRecognizer()

    evaluation_set = load_evaluation_set(corpus, split, names, model)  # type: ignore[arg-type]

    job = EvaluationJob(evaluation_set, model, Search(decode_greedy), options, Gang())  # type: ignore[arg-type]

    return job.run(BOOTSTRAP)
