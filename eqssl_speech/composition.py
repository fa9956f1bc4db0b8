"""Every registration with fairseq2."""

from __future__ import annotations

from fairseq2.metrics.recorders import MetricDescriptor
from fairseq2.recipe.component import register_component
from fairseq2.runtime.dependency import DependencyContainer
from torch.optim import Optimizer

from eqssl_speech.models.wav2vec2 import register_wav2vec2_archs, register_wav2vec2_asr_archs
from eqssl_speech.tasks.pretrain.config import EquilibriumOptimizerConfig
from eqssl_speech.tasks.pretrain.optimizer import (
    EQUILIBRIUM_OPTIMIZER,
    create_equilibrium_optimizer,
)
from eqssl_speech.tasks.time_left import TIME_LEFT


def register_all(container: DependencyContainer) -> None:
    """Register optimizers, model architectures, and how the metric that all recipes share is shown.

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
