"""Lets a HuBERT compute activations anew in the backward pass instead of keeping them."""

from __future__ import annotations

from fairseq2.models.utils.ac import apply_layerwise_ac
from torch.nn import Module, ModuleList

from eqssl_speech.models.hubert.model import HubertModel


def apply_ac_to_hubert(model: HubertModel, every_nth_layer: int) -> Module:
    """Wrap every n-th layer of the encoder, from the first.

    :param model: Changed in place.
    :param every_nth_layer: From 1, which wraps all.
    """
    layers = model.encoder.layers

    assert isinstance(layers, ModuleList)

    apply_layerwise_ac(layers, every_nth_layer)

    return model
