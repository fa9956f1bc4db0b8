"""HuBERT as a model family of fairseq2 (arXiv 2106.07447)."""

from __future__ import annotations

from eqssl_speech.models.hubert.ac import apply_ac_to_hubert
from eqssl_speech.models.hubert.config import HUBERT_FAMILY, HubertConfig, register_hubert_archs
from eqssl_speech.models.hubert.factory import HubertFactory, create_hubert_model
from eqssl_speech.models.hubert.fsdp import apply_fsdp_to_hubert
from eqssl_speech.models.hubert.hub import get_hubert_model_hub
from eqssl_speech.models.hubert.interop import convert_hubert_state_dict
from eqssl_speech.models.hubert.model import HubertLoss, HubertModel, HubertOutput

__all__ = [
    "HUBERT_FAMILY",
    "HubertConfig",
    "HubertFactory",
    "HubertLoss",
    "HubertModel",
    "HubertOutput",
    "apply_ac_to_hubert",
    "apply_fsdp_to_hubert",
    "convert_hubert_state_dict",
    "create_hubert_model",
    "get_hubert_model_hub",
    "register_hubert_archs",
]
