"""What cannot work in several processes is refused at start, and a replica is as large as the host makes it."""

from __future__ import annotations

import pytest
import torch
from fairseq2.world_info import WorldInfo

from eqssl_speech.error import InputError
from eqssl_speech.tasks.finetune.config import FinetuneConfig
from eqssl_speech.tasks.finetune.preflight import check_config as check_finetune_config
from eqssl_speech.tasks.pretrain.config import EquilibriumSection, PretrainConfig
from eqssl_speech.tasks.pretrain.preflight import check_config, replica_size


def make_config(**settings: object) -> PretrainConfig:
    """Return a configuration with settings by their dotted names, dots written as double underscores."""
    config = PretrainConfig()

    for name, value in settings.items():
        *path, last = name.split("__")
        section: object = config

        for key in path:
            section = getattr(section, key)

        assert hasattr(section, last)
        setattr(section, last, value)

    return config


SHARDED = {"trainer__data_parallelism": "fsdp"}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (SHARDED | {"trainer__fsdp__version": "v1"}, "set it to 'v2'"),
        (SHARDED | {"equilibrium__order": "exact"}, "`equilibrium.order` to 'first'"),
        (SHARDED | {"trainer__grad_accumulation__no_sync": True}, "set it to false"),
        ({"dataset__regime": "mixed"}, "`equilibrium` to null"),
        ({"model__dtype": torch.float16}, "bfloat16"),
        ({"trainer__grad_accumulation__num_batches": 2}, "`dataset.episodes_per_source`"),
    ],
)
def test_what_does_not_go_together_is_refused(settings: dict[str, object], words: str) -> None:
    check_config(PretrainConfig(), 2)

    with pytest.raises(InputError, match=words):
        check_config(make_config(**settings), 2)


@pytest.mark.parametrize(
    "settings",
    [
        SHARDED,
        SHARDED | {"trainer__fsdp__hybrid": True},
        SHARDED | {"equilibrium": None},
        {"equilibrium__order": "exact"},
        {"equilibrium": EquilibriumSection(num_inner_steps=3, outer_weights="last")},
    ],
)
def test_what_goes_together_is_not(settings: dict[str, object]) -> None:
    check_config(make_config(**settings), 2)


def test_one_process_shards_nothing() -> None:
    check_config(make_config(**SHARDED, equilibrium__order="exact"), 1)


@pytest.mark.parametrize(
    ("settings", "num_ranks", "local_size", "expected"),
    [
        ({}, 8, 4, 1),
        (SHARDED, 1, 1, 1),
        (SHARDED, 8, 4, 8),
        (SHARDED | {"trainer__fsdp__hybrid": True}, 8, 4, 4),
        (SHARDED | {"trainer__fsdp__hybrid": True}, 8, 8, 8),
    ],
)
def test_replica_is_as_large_as_what_shares_parameters(
    settings: dict[str, object], num_ranks: int, local_size: int, expected: int
) -> None:
    world = WorldInfo(rank=0, size=num_ranks, local_rank=0, local_size=local_size)

    assert replica_size(make_config(**settings), world) == expected


def test_fine_tuning_refuses_shards_that_no_other_number_of_processes_could_read() -> None:
    config = FinetuneConfig()
    config.trainer.data_parallelism = "fsdp"
    config.trainer.fsdp.version = "v1"

    with pytest.raises(InputError, match=r"`trainer.fsdp.version` is 'v1'.*set it to 'v2'"):
        check_finetune_config(config)
