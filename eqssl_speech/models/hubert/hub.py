"""The host's access to models of the family ``hubert`` by the name of an asset."""

from __future__ import annotations

from typing import Final

from fairseq2.models import ModelHubAccessor

from eqssl_speech.models.hubert.config import HUBERT_FAMILY, HubertConfig
from eqssl_speech.models.hubert.model import HubertModel

get_hubert_model_hub: Final = ModelHubAccessor(HUBERT_FAMILY, HubertModel, HubertConfig)
