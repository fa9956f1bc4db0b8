"""What can go wrong with a fine-tuning run is found here: before the first step, and before anything is written."""

from __future__ import annotations

import torch
from fairseq2.runtime.dependency import DependencyResolver

from eqssl_speech.error import InputError
from eqssl_speech.tasks.finetune.config import SCORE_METRIC, FinetuneConfig
from eqssl_speech.tasks.finetune.model import check_model
from eqssl_speech.tasks.finetune.sources import TranscribedSources
from eqssl_speech.tasks.optimizer import check_optimizer, check_warm_up
from eqssl_speech.text.tokenizer import CtcTokenizer


def check_run(resolver: DependencyResolver, config: FinetuneConfig) -> None:
    """Check configuration, tokenizer, encoder and data.

    :raises InputError: If the run cannot start.
    """
    check_config(config)

    check_optimizer(config.optimizer)

    check_warm_up(config.lr_scheduler, config.regime.num_steps)

    resolver.resolve(CtcTokenizer)

    check_model(resolver, config)

    resolver.resolve(TranscribedSources)


def load_tokenizer(config: FinetuneConfig) -> CtcTokenizer:
    """Load the tokenizer that the configuration names.

    :raises InputError: If it names none, or what it names is none.
    """
    if config.tokenizer is None:
        raise InputError(
            "`tokenizer` is not set: make one with `eqssl tokenizer CORPUS DIR` and add `--config tokenizer=DIR`."
        )

    return CtcTokenizer.load(config.tokenizer)


def check_config(config: FinetuneConfig) -> None:
    """Refuse what does not go together.

    :param config: The configuration, whose sections are valid each for itself.
    :raises InputError: Names the keys and says what to set.
    """
    if config.model.family != "wav2vec2_asr":
        raise InputError(
            f"`model.family` is '{config.model.family}', but fine-tuning supports 'wav2vec2_asr' only."
        )

    if config.model.name is not None or config.model.path is not None:
        raise InputError(
            "`model.name` and `model.path` are not used here: set `pretrained` to what to start from."
        )

    if config.trainer.grad_accumulation.num_batches != 1:
        raise InputError(
            f"`trainer.grad_accumulation.num_batches` is {config.trainer.grad_accumulation.num_batches}, but "
            "accumulation follows from the number of batches of an update: leave it at 1 and set "
            "`dataset.batches_per_source`."
        )

    if config.trainer.data_parallelism == "fsdp" and config.trainer.fsdp.version != "v2":
        raise InputError(
            f"`trainer.fsdp.version` is '{config.trainer.fsdp.version}', whose checkpoints no other number of "
            "processes could read: set it to 'v2'."
        )

    if config.model.dtype == torch.float16:
        raise InputError(
            "`model.dtype` is float16, in which the loss cannot be summed: leave it at float32 and set "
            "`trainer.mixed_precision.mode`."
        )

    regime = config.regime

    if regime.num_steps is None:
        raise InputError(
            "`regime.num_steps` is not set, but sources start over at their own pace and never end: set the number of "
            "updates."
        )

    if regime.score_metric not in (None, SCORE_METRIC):
        raise InputError(
            f"`regime.score_metric` is '{regime.score_metric}', but the best checkpoint is chosen by '{SCORE_METRIC}' "
            "or, with null, not at all."
        )

    if regime.score_metric is not None and regime.validate_every_n_steps is None:
        raise InputError(
            "`regime.score_metric` asks for validations, but `regime.validate_every_n_steps` is null: set it, or set "
            "`regime.score_metric` and `regime.keep_best_n_checkpoints` to null."
        )
