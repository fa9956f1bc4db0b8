"""The host finds the extension through its entry point, whichever recipe is started."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata

import pytest

ENTRY_POINT = "eqssl_speech:setup_fairseq2_extension"

# A recipe that knows nothing of this package. The first import makes libsndfile findable where the system has none.
OTHER_RECIPE = """
import eqssl_speech
from fairseq2.recipe.base import Recipe
from fairseq2.recipe.cli import main
from fairseq2.recipe.config import (
    CommonSection, GangSection, LRSchedulerSection, ModelSection, OptimizerSection, RegimeSection, TrainerSection
)
from dataclasses import dataclass, field

@dataclass(kw_only=True)
class Config:
    optimizer: OptimizerSection = field(
        default_factory=lambda: OptimizerSection(name="equilibrium", config={})
    )
    model: ModelSection = field(default_factory=lambda: ModelSection(family="wav2vec2", arch="tiny"))
    gang: GangSection = field(default_factory=GangSection)
    trainer: TrainerSection = field(default_factory=TrainerSection)
    lr_scheduler: LRSchedulerSection | None = None
    regime: RegimeSection = field(default_factory=RegimeSection)
    common: CommonSection = field(default_factory=CommonSection)

class Other(Recipe):
    def create_task(self, context):
        raise RuntimeError("is not run")

    @property
    def config_kls(self):
        return Config

main(Other())
"""


def start_other_recipe(program: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, "--no-rich", "--dump-config"],
        capture_output=True,
        text=True,
        env={**os.environ, **env},
        check=False,
    )


def test_entry_point_is_declared_once() -> None:
    points = metadata.entry_points(group="fairseq2.extension")

    assert [p.value for p in points if p.value.startswith("eqssl_speech")] == [ENTRY_POINT]


def test_other_recipe_registers_the_extension_and_knows_its_optimizer() -> None:
    result = start_other_recipe(OTHER_RECIPE, FAIRSEQ2_EXTENSION_TRACE="1")

    assert result.returncode == 0, result.stderr

    # The host logs through the root logger, whose stream it chooses itself.
    assert f"{ENTRY_POINT} extension registered successfully." in result.stderr + result.stdout

    # Its configuration could only be structured because the component is registered.
    assert "name: equilibrium" in result.stdout
    assert "num_inner_steps" in result.stdout


def test_registration_that_raises_is_not_hidden() -> None:
    # What the tests above rely on: the host would otherwise log a warning and go on.
    broken = (
        "import eqssl_speech\n"
        "def fail(container):\n"
        "    raise ValueError('is broken')\n"
        "eqssl_speech.setup_fairseq2_extension = fail\n"
    )

    result = start_other_recipe(broken + OTHER_RECIPE, FAIRSEQ2_EXTENSION_TRACE="1")

    assert result.returncode == 1
    assert f"{ENTRY_POINT} extension failed to initialize" in result.stderr
    assert "is broken" in result.stderr


def test_setup_registers_optimizer_and_architectures() -> None:
    from fairseq2.composition import _register_library
    from fairseq2.models.wav2vec2 import Wav2Vec2Config
    from fairseq2.recipe.component import _StandardComponentManager
    from fairseq2.runtime.config_registry import get_config
    from fairseq2.runtime.dependency import DependencyContainer, wire_object
    from torch.optim import Optimizer

    from eqssl_speech.tasks.pretrain.config import EquilibriumOptimizerConfig

    container = DependencyContainer()

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAIRSEQ2_EXTENSION_TRACE", "1")
        _register_library(container)

    manager = wire_object(container, _StandardComponentManager)

    config = manager.structure_component_config(Optimizer, "equilibrium", {"num_inner_steps": 3})

    assert isinstance(config, EquilibriumOptimizerConfig)
    assert config.num_inner_steps == 3

    for arch in ("tiny", "micro", "base"):
        assert isinstance(get_config(container, Wav2Vec2Config, arch), Wav2Vec2Config)
