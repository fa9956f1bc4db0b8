"""Between the start of an episode and its last backward pass the processor reads from the device once.

Tensors of the device ``meta`` have shapes and no values: whatever would wait for a GPU to know a value (an ``item()``,
a boolean index, a ``nonzero()``, a copy to the processor) raises there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from fairseq2.datasets import SequenceBatch
from fairseq2.metrics import MetricBag
from fairseq2.models.wav2vec2 import Wav2Vec2Model, create_wav2vec2_model
from fairseq2.nn import BatchLayout
from torch import Tensor

from eqssl_speech.criteria.metrics import SourceMetrics
from eqssl_speech.criteria.wav2vec2 import LossSection, Wav2Vec2Criterion
from eqssl_speech.data.episodes import Episode
from eqssl_speech.equilibrium import EquilibriumOptimizer
from eqssl_speech.models.wav2vec2 import accelerate, prepare_model
from eqssl_speech.models.wav2vec2.config import micro_config
from eqssl_speech.tasks.pretrain.episode_loss import EpisodeLoss

META = torch.device("meta")


@pytest.fixture(autouse=True)
def meta_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give the device what torch leaves out: autocast, and the gradient of the weight norm."""
    autocast = torch.autocast

    def on_cpu(device_type: str, **kwargs: Any) -> torch.autocast:
        return autocast("cpu" if device_type == "meta" else device_type, **kwargs)

    monkeypatch.setattr(torch, "autocast", on_cpu)

    library = torch.library.Library("aten", "IMPL", "Meta")

    library.impl(
        "_weight_norm_interface_backward",
        lambda grad, v, g, norms, dim: (torch.empty_like(v), torch.empty_like(g)),
    )

    with torch.random.fork_rng():
        yield

    library._destroy()


def make_model(**settings: Any) -> Wav2Vec2Model:
    config = micro_config()

    for name, value in settings.items():
        owner = config if hasattr(config, name) else config.encoder_config
        setattr(owner, name, value)

    model = accelerate(prepare_model(create_wav2vec2_model(config))).to(META)
    model.quantizer.set_step_nr(1)

    return model


def make_batch(seq_lens: list[int] | None = None) -> SequenceBatch:
    return SequenceBatch(torch.empty(3, 20_000, device=META), seq_lens)


@pytest.mark.parametrize(
    "settings",
    [{}, {"max_spatial_mask_prob": 0.9}, {"feature_extractor_layer_norm_convs": True}],
    ids=str,
)
@pytest.mark.parametrize("seq_lens", [None, [20_000, 17_000, 16_001]])
def test_a_training_step_of_the_model_waits_for_nothing(
    settings: dict[str, Any], seq_lens: list[int] | None
) -> None:
    model = make_model(**settings)
    batch = make_batch(seq_lens)

    loss, output = model(*batch.as_input())
    (loss.aggregate / output.num_targets).backward()

    assert output.logits.shape[0] == 3
    assert all(p.grad is not None and p.grad.shape == p.shape for p in model.parameters())


@pytest.mark.parametrize("num_inner_steps", [0, 1, 3])
@pytest.mark.parametrize("outer_weights", ["last", "uniform"])
def test_an_episode_reads_once(
    num_inner_steps: int, outer_weights: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model()
    criterion = Wav2Vec2Criterion(model, LossSection())
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

    episode = Episode("source", [make_batch() for _ in range(num_inner_steps + 1)])
    episode_loss = EpisodeLoss(model, model, criterion, optimizer, max_rise=2.0)

    metrics = SourceMetrics(MetricBag(META), "source")
    metrics.add(criterion.num_codes)

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
    batch = make_batch()

    with pytest.raises((RuntimeError, NotImplementedError), match=r"[mM]eta|item"):
        host.run_frontend(batch.seqs, BatchLayout.of(batch.seqs))
