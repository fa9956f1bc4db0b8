"""What stays as it was pre-trained, and until when."""

from __future__ import annotations

import math
from typing import final

from fairseq2.models.wav2vec2.asr import Wav2Vec2AsrModel
from fairseq2.nn.utils.module import freeze_parameters


@final
class FreezeSchedule:
    """Freezes parts of an ASR model, as a function of the number of the step alone, so that a resumed run is right.

    A frozen parameter has ``requires_grad`` unset, so it gets no gradient, and optimizers leave a parameter without a
    gradient as it is to the last bit: no weight decay, no moments.

    Distributed data parallel wants both calls. What is frozen for good must be so **before** the model is wrapped
    (:meth:`prepare`): DDP waits for the gradient of everything else. What thaws later must be frozen only **after**
    that (:meth:`apply`): DDP never averages the gradient of a parameter that was frozen when it was built, and the
    replicas drift apart without a word. And a run in which something thaws must not claim a static graph
    (:attr:`has_static_graph`), or the second step fails. FSDP2 takes anything.
    """

    def __init__(
        self,
        model: Wav2Vec2AsrModel,
        *,
        feature_extractor: bool | int = True,
        num_encoder_steps: int = 0,
    ) -> None:
        """
        :param model: The model, not a wrapper of it.
        :param feature_extractor: Whether the convolutions stay frozen for good; or for how many steps.
        :param num_encoder_steps: For how many steps all but the output layer is frozen: the whole frontend, the
            encoder and the masker's embedding.
        :raises ValueError: If a number of steps is less than 0.
        """
        if feature_extractor is True:
            num_feature_extractor_steps = math.inf
        else:
            num_feature_extractor_steps = int(feature_extractor)

        for name, value in (
            ("feature_extractor", num_feature_extractor_steps),
            ("num_encoder_steps", num_encoder_steps),
        ):
            if value < 0:
                raise ValueError(
                    f"`{name}` must be greater than or equal to 0, but is {value} instead."
                )

        self._model = model
        self._num_feature_extractor_steps = num_feature_extractor_steps
        self._num_encoder_steps = num_encoder_steps

    def prepare(self) -> None:
        """Freeze what never thaws; to be called before the model is wrapped, in resumed runs as well."""
        if math.isinf(self._num_feature_extractor_steps):
            freeze_parameters(self._model.encoder_frontend.feature_extractor)

    def apply(self, step_nr: int) -> None:
        """Freeze and thaw as a step asks for; to be called after the model is wrapped, before the step's forward pass.

        :param step_nr: The number of the step, from 1.
        """
        encoder_learns = step_nr > self._num_encoder_steps

        # Looked up each time, as FSDP2 puts other parameters into the modules.
        for module in (self._model.encoder_frontend, self._model.encoder, self._model.masker):
            freeze_parameters(module, not encoder_learns)

        if not step_nr > self._num_feature_extractor_steps:
            freeze_parameters(self._model.encoder_frontend.feature_extractor)

    @property
    def has_static_graph(self) -> bool:
        """Whether the same parameters get a gradient in all steps; ``Recipe.has_static_autograd_graph`` must say it."""
        return self._num_encoder_steps == 0 and self._num_feature_extractor_steps in (0, math.inf)
