"""The host knows HuBERT as a family: its architectures, how it is sharded, what it recomputes."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from fairseq2.device import META_DEVICE
from fairseq2.error import NotSupportedError
from fairseq2.models.transformer import TransformerNormOrder
from fairseq2.models.wav2vec2 import create_wav2vec2_model
from fairseq2.nn import BatchLayout
from fairseq2.utils.validation import StandardObjectValidator, ValidationError
from torch import Tensor
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import CheckpointWrapper
from torch.nn import Module

from eqssl_speech.models.hubert import (
    HUBERT_FAMILY,
    HubertConfig,
    HubertModel,
    apply_ac_to_hubert,
    apply_fsdp_to_hubert,
    create_hubert_model,
    get_hubert_model_hub,
)
from eqssl_speech.models.hubert.config import micro_config
from eqssl_speech.models.wav2vec2 import expects_normalized_audio
from eqssl_speech.models.wav2vec2.config import micro_config as micro_wav2vec2_config

ENCODER = ("encoder_frontend.", "encoder.", "masker.")


@pytest.mark.parametrize(
    ("arch", "num_millions", "num_layers", "final_dim"),
    [("base", 95, 12, 256), ("large", 317, 24, 768), ("xlarge", 964, 48, 1024)],
)
def test_the_architectures_of_the_paper_have_its_numbers_of_parameters(
    arch: str, num_millions: int, num_layers: int, final_dim: int
) -> None:
    config = get_hubert_model_hub().get_arch_config(arch)

    with META_DEVICE:
        model = create_hubert_model(config)

    assert round(sum(p.numel() for p in model.parameters()) / 1e6) == num_millions
    assert len(model.encoder.layers) == num_layers
    assert model.final_proj.output_dim == final_dim

    is_base = arch == "base"
    encoder = config.encoder_config

    assert expects_normalized_audio(encoder) == (not is_base)
    assert (encoder.norm_order == TransformerNormOrder.POST) == is_base
    assert (encoder.first_pass_dropout_p, encoder.dropout_p, encoder.attn_dropout_p) == (
        (0.1, 0.1, 0.1) if is_base else (0.0, 0.0, 0.0)
    )
    assert (encoder.layer_drop_p, encoder.feature_grad_scale) == (
        (0.05, 0.1) if is_base else (0.0, 1.0)
    )


@pytest.mark.parametrize(("arch", "num_millions"), [("tiny", 2.27), ("micro", 0.1)])
def test_small_architectures_have_the_encoder_of_wav2vec2(arch: str, num_millions: float) -> None:
    model = create_hubert_model(get_hubert_model_hub().get_arch_config(arch))

    num_parameters = sum(p.numel() for p in model.parameters())
    assert num_parameters / 1e6 == pytest.approx(num_millions, abs=0.01)


def test_tensors_of_the_encoder_are_called_as_in_wav2vec2() -> None:
    ours, theirs = (
        {n: t.shape for n, t in model.state_dict().items() if n.startswith(ENCODER)}
        for model in (
            create_hubert_model(micro_config()),
            create_wav2vec2_model(micro_wav2vec2_config()),
        )
    )

    assert ours == theirs


def test_configurations_are_the_same_at_each_call() -> None:
    hub = get_hubert_model_hub()

    hub.get_arch_config("tiny").num_codes.append(5)

    assert hub.get_archs() == {"base", "large", "xlarge", "tiny", "micro"}
    assert hub.get_arch_config("tiny").num_codes == [100]
    assert HubertConfig().num_codes == [500]


def test_a_model_of_the_family_is_made() -> None:
    model = get_hubert_model_hub().create_new_model(micro_config([4, 5]))

    assert HUBERT_FAMILY == "hubert"
    assert isinstance(model, HubertModel)
    assert model.num_codes == (4, 5)

    embeddings = model.code_embeddings.detach()
    assert 0.0 <= float(embeddings.min()) < float(embeddings.max()) < 1.0


@pytest.mark.parametrize(
    ("overrides", "error"),
    [
        ({"num_codes": []}, "`num_codes` must hold a number for each label set, but is empty"),
        ({"num_codes": [5, 1]}, r"greater than or equal to 2 .* but is \[5, 1\] instead"),
        ({"logit_temp": 0.0}, "`logit_temp` must be greater than 0, but is 0.0 instead"),
        ({"final_dim": 0}, "`final_dim` must be greater than or equal to 1, but is 0 instead"),
    ],
)
def test_configurations_that_make_no_model_are_refused(overrides, error) -> None:
    validator = StandardObjectValidator()
    validator.validate(micro_config())

    with pytest.raises(ValidationError) as info:
        validator.validate(replace(micro_config(), **overrides))

    assert re.search(error, str(info.value.result))


class Wrapped(Module):
    """Stands for a sharded module."""

    def __init__(self, module: Module, reshard_after_forward: bool | None = None) -> None:
        super().__init__()

        self.module = module
        self.reshard_after_forward = reshard_after_forward


def test_layers_are_sharded_one_by_one() -> None:
    model = create_hubert_model(micro_config())

    assert apply_fsdp_to_hubert(model, "layer", Wrapped) is model

    layers = list(model.encoder.layers)
    assert [type(layer) for layer in layers] == [Wrapped, Wrapped]
    assert [layer.reshard_after_forward for layer in layers] == [None, False]


def test_the_encoder_is_sharded_as_a_whole() -> None:
    model = create_hubert_model(micro_config())
    encoder = model.encoder

    assert apply_fsdp_to_hubert(model, "stack", Wrapped) is model

    assert isinstance(model.encoder, Wrapped)
    assert model.encoder.module is encoder


def test_another_granularity_is_refused() -> None:
    model = create_hubert_model(micro_config())

    with pytest.raises(NotSupportedError, match="must be `layer` or `stack`, but is `model`"):
        apply_fsdp_to_hubert(model, "model", Wrapped)


@pytest.mark.parametrize(("every_nth_layer", "wrapped"), [(1, [True, True]), (2, [True, False])])
def test_activations_computed_anew_give_the_same_gradients(
    every_nth_layer: int, wrapped: list[bool]
) -> None:
    config = micro_config()
    config.encoder_config = replace(config.encoder_config, dropout_p=0.1)

    grads: list[dict[str, Tensor]] = []

    with torch.random.fork_rng():
        for recompute in (False, True):
            torch.manual_seed(0)
            model = create_hubert_model(config)

            if recompute:
                assert apply_ac_to_hubert(model, every_nth_layer) is model
                layers = list(model.encoder.layers)
                assert [isinstance(layer, CheckpointWrapper) for layer in layers] == wrapped

            seqs = torch.randn(2, 12_000)
            labels = torch.randint(0, 16, (1, 2, 37))

            loss, _ = model(seqs, BatchLayout.of(seqs), labels)
            loss.aggregate.backward()

            grads.append(
                {
                    name.replace("_checkpoint_wrapped_module.", ""): param.grad
                    for name, param in model.named_parameters()
                    if param.grad is not None
                }
            )

    assert list(grads[0]) == list(grads[1])
    assert all(torch.equal(grad, grads[1][name]) for name, grad in grads[0].items())
