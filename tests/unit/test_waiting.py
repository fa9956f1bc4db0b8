"""Between the start of an episode and its last backward pass the processor reads from the device once.

Tensors of the device ``meta`` have shapes and no values: whatever would wait for a GPU to know a value (an ``item()``,
a boolean index, a ``nonzero()``, a copy to the processor) raises there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from fairseq2.metrics import MetricBag
from fairseq2.models.wav2vec2 import create_wav2vec2_model
from fairseq2.nn import BatchLayout
from families import FAMILIES, make_batch, make_criterion, make_micro_model
from meta_device import META, complete_meta
from torch import Tensor

from eqssl_speech.criteria.metrics import SourceMetrics
from eqssl_speech.data.episodes import Episode
from eqssl_speech.data.labelled import SpeechBatch
from eqssl_speech.equilibrium import EquilibriumOptimizer
from eqssl_speech.models.wav2vec2.config import micro_config
from eqssl_speech.tasks.pretrain.episode_loss import EpisodeLoss


@pytest.fixture(autouse=True)
def meta_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give the device what torch leaves out."""
    with complete_meta(monkeypatch):
        yield


def make_speech(family: str, seq_lens: list[int] | None = None) -> SpeechBatch:
    return make_batch(family, torch.empty(3, 20_000, device=META), seq_lens)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "settings",
    [{}, {"max_spatial_mask_prob": 0.9}, {"feature_extractor_layer_norm_convs": True}],
    ids=str,
)
@pytest.mark.parametrize("seq_lens", [None, [20_000, 17_000, 16_001]])
def test_a_training_step_of_the_model_waits_for_nothing(
    family: str, settings: dict[str, Any], seq_lens: list[int] | None
) -> None:
    model = make_micro_model(family, **settings).to(META)
    criterion = make_criterion(model)
    criterion.set_step_nr(1)

    output = criterion(model, make_speech(family, seq_lens))
    output.loss.backward()

    # Known without asking the device: as many in each utterance.
    assert output.num_targets > 0
    assert output.num_targets % 3 == 0
    assert all(p.grad is not None and p.grad.shape == p.shape for p in model.parameters())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("num_inner_steps", [0, 1, 3])
@pytest.mark.parametrize("outer_weights", ["last", "uniform"])
def test_an_episode_reads_once(
    family: str, num_inner_steps: int, outer_weights: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_micro_model(family).to(META)
    criterion = make_criterion(model)
    criterion.set_step_nr(1)
    base = torch.optim.AdamW(model.parameters())
    optimizer = EquilibriumOptimizer(
        base, num_inner_steps=num_inner_steps, inner_lr=0.1, outer_weights=outer_weights
    )

    reads: list[int] = []

    def read(value: Tensor) -> list[float]:
        # As many zeros as it has numbers, and that one process has none of them wrong.
        reads.append(value.numel())

        return [0.0] * (value.numel() - 2) + [1.0, 0.0]

    monkeypatch.setattr(Tensor, "tolist", read)

    episode = Episode("source", [make_speech(family) for _ in range(num_inner_steps + 1)])
    episode_loss = EpisodeLoss(model, model, criterion, optimizer, max_rise=2.0)

    metrics = SourceMetrics(MetricBag(META), "source")
    metrics.add(criterion.num_codes, criterion.num_labels)

    for num_episodes in (1, 2):
        result = episode_loss(episode)
        assert reads == [2 * num_inner_steps + 3] * num_episodes

        metrics.update_plain(result.first)
        metrics.update_adapted(result.last)
        result.loss.backward()
        assert len(reads) == num_episodes

    optimizer.step()
    optimizer.zero_grad()
    assert len(reads) == 2


def test_the_host_waits() -> None:
    """Or the tests above could not fail."""
    host = create_wav2vec2_model(micro_config()).to(META)
    batch = make_speech("wav2vec2")

    with pytest.raises((RuntimeError, NotImplementedError), match=r"[mM]eta|item"):
        host.run_frontend(batch.seqs, BatchLayout.of(batch.seqs))
