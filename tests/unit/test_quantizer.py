"""The stepwise quantizer computes what the host's does, but counts outer steps instead of forward passes."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy

import pytest
import torch
import torch._dynamo
from fairseq2.models.wav2vec2 import create_wav2vec2_model
from fairseq2.models.wav2vec2.vector_quantizer import (
    GumbelWav2Vec2VectorQuantizer,
    Wav2Vec2VectorQuantizer,
    Wav2Vec2VectorQuantizerOutput,
)
from torch import Tensor
from torch.nn import Linear

from eqssl_speech.models.wav2vec2.config import micro_config
from eqssl_speech.models.wav2vec2.quantizer import StepwiseQuantizer, prepare_model

START, END, DECAY = 2.0, 0.5, 0.95


@pytest.fixture(autouse=True)
def without_compiler() -> Iterator[None]:
    """Let the host's quantizer, which compiles a function in each forward pass, run as it is written."""
    with torch._dynamo.config.patch(disable=True):
        yield


@pytest.fixture
def host() -> Iterator[GumbelWav2Vec2VectorQuantizer]:
    with torch.random.fork_rng():
        torch.manual_seed(3)

        yield GumbelWav2Vec2VectorQuantizer(24, 16, 2, 8, (START, END, DECAY))


def make_features() -> Tensor:
    return torch.randn(3, 11, 24, generator=torch.Generator().manual_seed(9))


def run(
    quantizer: Wav2Vec2VectorQuantizer, seed: int = 0
) -> tuple[Wav2Vec2VectorQuantizerOutput, list[Tensor]]:
    """Return the output, and the gradients of a function of all of it that has some."""
    x = make_features().requires_grad_()

    torch.manual_seed(seed)

    output = quantizer(x)

    generator = torch.Generator().manual_seed(4)

    loss = output.prob_perplexity.clone()
    for tensor in (output.quantized_vectors, output.cb):
        if tensor.requires_grad:
            loss = loss + (tensor * torch.randn(tensor.shape, generator=generator)).sum()

    return output, list(torch.autograd.grad(loss, [x, *quantizer.parameters()]))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("num_steps", [0, 7, 500])
def test_outputs_and_gradients_are_the_hosts(
    host: GumbelWav2Vec2VectorQuantizer, training: bool, num_steps: int
) -> None:
    ours = StepwiseQuantizer(deepcopy(host)).train(training)

    # The host counts the forward passes before this one.
    host.train(training).num_updates.fill_(num_steps)
    ours.set_step_nr(num_steps + 1)

    expected, expected_grads = run(host)
    output, grads = run(ours)

    assert output.temperature == pytest.approx(expected.temperature, rel=1e-12)

    for name in ("quantized_vectors", "cb", "code_perplexity", "prob_perplexity"):
        found, wanted = getattr(output, name), getattr(expected, name)

        # The sum over entries is taken in another order.
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)

    assert len(grads) == len(expected_grads) == 4
    assert all(grad.abs().max() > 0 for grad in grads)

    for found, wanted in zip(grads, expected_grads):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_another_seed_chooses_other_codes(host: GumbelWav2Vec2VectorQuantizer) -> None:
    quantizer = StepwiseQuantizer(host)

    assert torch.equal(run(quantizer, seed=0)[0].cb, run(quantizer, seed=0)[0].cb)
    assert not torch.equal(run(quantizer, seed=0)[0].cb, run(quantizer, seed=1)[0].cb)


def test_codes_are_one_per_codebook(host: GumbelWav2Vec2VectorQuantizer) -> None:
    output, _ = run(StepwiseQuantizer(host))

    codes = output.cb.view(-1, 2, 8)

    assert codes.shape[0] == 33
    torch.testing.assert_close(codes.sum(dim=-1), torch.ones(33, 2))
    torch.testing.assert_close(codes.amax(dim=-1), torch.ones(33, 2))


def test_state_is_the_hosts_in_both_directions(host: GumbelWav2Vec2VectorQuantizer) -> None:
    state = {name: value.clone() for name, value in host.state_dict().items()}

    ours = StepwiseQuantizer(host)

    assert list(ours.state_dict()) == list(state)

    for name, value in ours.state_dict().items():
        assert torch.equal(value, state[name])

    ours.set_step_nr(12)

    other = GumbelWav2Vec2VectorQuantizer(24, 16, 2, 8, (START, END, DECAY))
    other.load_state_dict(ours.state_dict())

    assert other.num_updates.item() == 12


@pytest.mark.parametrize("step_nr", [1, 2, 10, 1_000])
def test_temperature_follows_the_outer_steps_and_not_the_forward_passes(
    host: GumbelWav2Vec2VectorQuantizer, step_nr: int
) -> None:
    quantizer = StepwiseQuantizer(host)
    quantizer.set_step_nr(step_nr)

    expected = max(START * DECAY ** (step_nr - 1), END)

    for _ in range(4):
        assert run(quantizer)[0].temperature == pytest.approx(expected)

    assert quantizer.num_updates.item() == step_nr


def test_temperature_is_read_from_a_checkpoint_where_no_step_is_told(
    host: GumbelWav2Vec2VectorQuantizer,
) -> None:
    trained = StepwiseQuantizer(deepcopy(host))
    trained.set_step_nr(10)

    loaded = StepwiseQuantizer(host)
    loaded.load_state_dict(trained.state_dict())

    assert run(loaded)[0].temperature == run(trained)[0].temperature < START
    assert loaded.num_updates.item() == 10


def test_model_keeps_its_parameters_and_buffers() -> None:
    model = create_wav2vec2_model(micro_config())

    parameters, names = dict(model.named_parameters()), list(model.state_dict())

    prepare_model(model)

    assert isinstance(model.quantizer, StepwiseQuantizer)
    assert list(model.state_dict()) == names
    assert list(dict(model.named_parameters())) == list(parameters)
    assert all(p is parameters[name] for name, p in model.named_parameters())

    # Once more changes nothing.
    quantizer = model.quantizer

    assert prepare_model(model).quantizer is quantizer


def test_another_model_is_returned_as_it_is() -> None:
    model = Linear(2, 2)

    assert prepare_model(model) is model
