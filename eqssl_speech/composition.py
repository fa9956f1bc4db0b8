"""Every registration with fairseq2."""

from __future__ import annotations

from fairseq2.composition import register_model_family
from fairseq2.metrics.recorders import MetricDescriptor
from fairseq2.models.hg import HuggingFaceConverter
from fairseq2.recipe.component import register_component
from fairseq2.runtime.dependency import DependencyContainer
from torch.optim import Optimizer

from eqssl_speech.export.host_converter import SpeechConverter
from eqssl_speech.models.hubert import (
    HUBERT_FAMILY,
    HubertConfig,
    HubertModel,
    apply_ac_to_hubert,
    apply_fsdp_to_hubert,
    convert_hubert_state_dict,
    create_hubert_model,
    register_hubert_archs,
)
from eqssl_speech.models.wav2vec2 import register_wav2vec2_archs, register_wav2vec2_asr_archs
from eqssl_speech.tasks.pretrain.config import EquilibriumOptimizerConfig
from eqssl_speech.tasks.pretrain.optimizer import (
    EQUILIBRIUM_OPTIMIZER,
    create_equilibrium_optimizer,
)
from eqssl_speech.tasks.time_left import TIME_LEFT


def register_all(container: DependencyContainer) -> None:
    """Register optimizers, model families and architectures, and how the metric that all recipes share is shown.

    :param container: The host's container of components.
    """
    register_component(
        container,
        Optimizer,
        EQUILIBRIUM_OPTIMIZER,
        config_kls=EquilibriumOptimizerConfig,
        factory=create_equilibrium_optimizer,
    )

    container.collection.register_instance(MetricDescriptor, TIME_LEFT)

    register_wav2vec2_archs(container)
    register_wav2vec2_asr_archs(container)

    register_model_family(
        container,
        HUBERT_FAMILY,
        kls=HubertModel,
        config_kls=HubertConfig,
        factory=create_hubert_model,
        state_dict_converter=convert_hubert_state_dict,
        fsdp_applier=apply_fsdp_to_hubert,
        layerwise_ac_applier=apply_ac_to_hubert,
    )
    register_hubert_archs(container)

    for family in ("wav2vec2", "wav2vec2_asr", HUBERT_FAMILY):
        container.register_type(HuggingFaceConverter, SpeechConverter, key=family)
