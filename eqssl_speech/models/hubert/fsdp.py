"""Shards a HuBERT for fully sharded data parallel training."""

from __future__ import annotations

from fairseq2.error import NotSupportedError
from fairseq2.models.utils.fsdp import apply_layerwise_fsdp
from fairseq2.nn.fsdp import FSDPWrapper
from torch.nn import Module, ModuleList

from eqssl_speech.models.hubert.model import HubertModel


def apply_fsdp_to_hubert(model: HubertModel, granularity: str, wrapper: FSDPWrapper) -> Module:
    """Wrap the layers of the encoder one by one, or the encoder as a whole.

    :param model: Changed in place. The host wraps the model itself afterwards.
    :param granularity: ``layer`` or ``stack``.
    :param wrapper: Wraps a module.
    :raises NotSupportedError: If the granularity is another.
    """
    if granularity == "layer":
        layers = model.encoder.layers

        assert isinstance(layers, ModuleList)

        apply_layerwise_fsdp(layers, wrapper)
    elif granularity == "stack":
        model.register_module("encoder", wrapper(model.encoder))
    else:
        raise NotSupportedError(
            f"`granularity` must be `layer` or `stack`, but is `{granularity}` instead."
        )

    return model
