"""HuBERT: masked prediction of hidden units (arXiv 2106.07447)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, final

import torch
from fairseq2.data_type import DataType
from fairseq2.device import Device
from fairseq2.models.transformer import TransformerEncoder
from fairseq2.models.wav2vec2 import StandardWav2Vec2Masker, Wav2Vec2Frontend
from fairseq2.nn import BatchLayout, Linear
from torch import Tensor
from torch.nn import Module, Parameter
from torch.nn.functional import cross_entropy, normalize
from torch.nn.init import uniform_
from typing_extensions import override

from eqssl_speech.models.wav2vec2.masking import Masking, pick_frames

_COSINE_EPS: Final = 1e-8
"""That of ``torch.cosine_similarity``."""


@dataclass
class HubertLoss:
    """The loss of a batch and its terms, each a sum over frames and label sets. *Shape* of each: ``()``."""

    aggregate: Tensor
    """What is minimised: the weighted sum of the others."""

    masked: Tensor
    """The cross-entropy at masked frames, in nats."""

    unmasked: Tensor
    """The cross-entropy at frames that are neither masked nor padding; zero, and without a graph, where its weight is
    zero."""

    features_penalty: Tensor
    """The mean square of the extracted features, times the number of masked frames."""


@dataclass
class HubertOutput:
    """What a HuBERT makes of a batch of N utterances, of each of which S frames are masked."""

    logits: list[Tensor]
    """The logits of masked frames, by label set. *Shape:* ``(N, S, C)``, C codes of the set."""

    targets: list[Tensor]
    """The labels of masked frames, by label set. *Shape:* ``(N, S)``."""

    unmasked_logits: list[Tensor] | None
    """The logits of the U unmasked frames of all utterances, by label set; ``None`` where their weight is zero.
    *Shape:* ``(U, C)``."""

    unmasked_targets: list[Tensor] | None
    """The labels of the unmasked frames, by label set; ``None`` where their weight is zero. *Shape:* ``(U)``."""

    num_targets: int
    """The number of masked frames of all utterances."""

    temporal_mask: Tensor
    """Which frames are masked. *Shape:* ``(N, T)``."""

    encoder_output: Tensor
    """The output of the encoder. *Shape:* ``(N, T, M)``."""

    encoder_output_layout: BatchLayout
    """How many of the T frames each utterance has."""

    raw_features: Tensor
    """The features as extracted, before norm and projection. *Shape:* ``(N, T, E)``."""


@final
class HubertModel(Module):
    """Predicts, for masked frames, the codes that an acoustic clustering gave to them.

    The logit of a code is the cosine between its embedding and the projected output of the encoder, over a temperature.
    Frontend, encoder and masker are wav2vec 2.0's, and so are their names.
    """

    def __init__(
        self,
        model_dim: int,
        encoder_frontend: Wav2Vec2Frontend,
        encoder: TransformerEncoder,
        masker: StandardWav2Vec2Masker,
        num_codes: Sequence[int],
        final_dim: int,
        *,
        shared_final_proj: bool = False,
        logit_temp: float = 0.1,
        device: Device | None = None,
        dtype: DataType | None = None,
    ) -> None:
        """
        :param model_dim: The dimensionality of the encoder.
        :param encoder_frontend: Makes features of waveforms.
        :param encoder: The encoder.
        :param masker: Holds the embedding of masked frames and says how many are masked.
        :param num_codes: The number of codes of each of L label sets.
        :param final_dim: The dimensionality of projections and embeddings.
        :param shared_final_proj: Whether all label sets share one projection.
        :param logit_temp: The temperature. *Range:* greater than 0.
        """
        super().__init__()

        self.model_dim = model_dim
        self.encoder_frontend = encoder_frontend
        self.encoder = encoder
        self.masker = masker

        self.num_codes = tuple(num_codes)
        self.final_dim = final_dim
        self.shared_final_proj = shared_final_proj
        self.logit_temp = logit_temp

        num_projections = 1 if shared_final_proj else len(self.num_codes)

        self.final_proj = Linear(
            model_dim, num_projections * final_dim, bias=True, device=device, dtype=dtype
        )

        self.code_embeddings = Parameter(
            torch.empty((sum(self.num_codes), final_dim), device=device, dtype=dtype)
        )

        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the embeddings of codes anew, uniform in [0, 1) as fairseq and torchaudio do."""
        uniform_(self.code_embeddings)

    def forward(
        self,
        seqs: Tensor,
        seqs_layout: BatchLayout,
        labels: Tensor,
        *,
        unmasked_weight: float = 0.0,
        features_penalty_weight: float = 10.0,
    ) -> tuple[HubertLoss, HubertOutput]:
        """Mask frames and predict their labels. Nothing here waits for a GPU.

        :param seqs: The waveforms. *Shape:* ``(N, P)``.
        :param seqs_layout: The number of samples of each.
        :param labels: The codes of frames by label set, int64. What stands at padded frames is not looked at. *Shape:*
            ``(L, N, T)``, T frames of the encoder.
        :param unmasked_weight: The weight of the loss at unmasked frames, where the masked ones have 1; where it is
            zero, their logits are not computed.
        :param features_penalty_weight: The weight of the penalty of features.
        :raises ValueError: If the labels are of another shape or type; or, where they are on the CPU and so can be
            looked at without waiting, if one is out of range.
        """
        frontend = self.encoder_frontend

        seqs, seqs_layout, raw_features = frontend.extract_features(seqs, seqs_layout)

        self._check_labels(labels, seqs.shape[:2])

        masking = Masking(self.masker)

        seqs, mask = frontend.process_features(seqs, seqs_layout, masking)  # type: ignore[arg-type]
        assert mask is not None

        seqs = self.encoder(seqs, seqs_layout)

        logits = self.compute_logits(pick_frames(seqs, masking.positions))
        targets = self._pick_labels(labels, masking.positions, (seqs.size(0), -1))

        unmasked_logits, unmasked_targets = None, None

        if unmasked_weight != 0.0:
            positions = masking.find_unmasked()

            # (N, T, M) -> (U, M)
            unmasked_logits = self.compute_logits(seqs.flatten(0, 1).index_select(0, positions))
            unmasked_targets = self._pick_labels(labels, positions, (-1,))

        output = HubertOutput(
            logits,
            targets,
            unmasked_logits,
            unmasked_targets,
            num_targets=masking.positions.numel(),
            temporal_mask=mask,
            encoder_output=seqs,
            encoder_output_layout=seqs_layout,
            raw_features=raw_features,
        )

        return compute_loss(output, unmasked_weight, features_penalty_weight), output

    if TYPE_CHECKING:
        __call__ = forward

    def compute_logits(self, seqs: Tensor) -> list[Tensor]:
        """Compare outputs of the encoder with the embeddings of all codes, in one product per projection.

        In float32 at least, whatever the precision of the outputs and of autocast.

        :param seqs: *Shape:* ``(*, M)``.
        :returns: The logits by label set. *Shape:* ``(*, C)``, C codes of the set.
        """
        # (*, M) -> (*, D) for each projection
        projections = self.final_proj(seqs).split(self.final_dim, dim=-1)

        if self.shared_final_proj:
            logits = cosine_logits(projections[0], self.code_embeddings, self.logit_temp)

            return list(logits.split(self.num_codes, dim=-1))

        embeddings = self.code_embeddings.split(self.num_codes)

        return [
            cosine_logits(projection, codes, self.logit_temp)
            for projection, codes in zip(projections, embeddings)
        ]

    def _check_labels(self, labels: Tensor, shape: torch.Size) -> None:
        expected = (len(self.num_codes), *shape)

        if labels.shape != expected:
            raise ValueError(
                f"`labels` must be of the shape {expected} (label sets, utterances, frames of the encoder), but is of "
                f"{tuple(labels.shape)} instead."
            )

        if labels.dtype != torch.int64:
            raise ValueError(f"`labels` must be of type int64, but is of {labels.dtype} instead.")

    def _pick_labels(
        self, labels: Tensor, positions: Tensor, shape: tuple[int, ...]
    ) -> list[Tensor]:
        # (L, N, T) -> (L, S)
        picked = labels.flatten(1).index_select(1, positions)

        if picked.device.type == "cpu":
            for set_nr, (row, num_codes) in enumerate(zip(picked, self.num_codes)):
                wrong = row[(row < 0) | (row >= num_codes)]

                if len(wrong) > 0:
                    raise ValueError(
                        f"`labels` of the set {set_nr} must be in [0, {num_codes}), the codes that the model has, but "
                        f"one is {int(wrong[0])} instead."
                    )

        return [row.view(shape) for row in picked]

    @override
    def extra_repr(self) -> str:
        """:meta private:"""
        return (
            f"model_dim={self.model_dim}, num_codes={list(self.num_codes)}, final_dim={self.final_dim}, "
            f"shared_final_proj={self.shared_final_proj}, logit_temp={self.logit_temp:G}"
        )


def compute_loss(
    output: HubertOutput, unmasked_weight: float, features_penalty_weight: float
) -> HubertLoss:
    """Compute the loss of a batch.

    :param output: What the model made of it.
    :param unmasked_weight: See :meth:`HubertModel.forward`.
    :param features_penalty_weight: See :meth:`HubertModel.forward`.
    """
    masked = sum_cross_entropy(output.logits, output.targets)

    # Over padding as well, as in all implementations.
    penalty = _at_least_float32(output.raw_features).square().mean() * output.num_targets

    aggregate = masked + features_penalty_weight * penalty

    if output.unmasked_logits is None or output.unmasked_targets is None:
        return HubertLoss(aggregate, masked, torch.zeros_like(masked), penalty)

    unmasked = sum_cross_entropy(output.unmasked_logits, output.unmasked_targets)

    return HubertLoss(aggregate + unmasked_weight * unmasked, masked, unmasked, penalty)


def sum_cross_entropy(logits: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
    """Sum the cross-entropy over frames and label sets.

    :param logits: By label set. *Shape:* ``(*, C)``.
    :param targets: By label set. *Shape:* ``(*)``.
    :returns: In nats. *Shape:* ``()``.
    """
    # (*, C) -> (S, C)
    losses = [
        cross_entropy(x.flatten(0, -2), t.flatten(), reduction="sum")
        for x, t in zip(logits, targets, strict=True)
    ]

    return torch.stack(losses).sum()


def cosine_logits(seqs: Tensor, codes: Tensor, temperature: float) -> Tensor:
    """Compute the cosines between all frames and all codes, over a temperature, as one matrix product.

    In float32 at least. Codes of equal embeddings are told apart by nothing, and share their probability; fairseq and
    torchaudio leave copies of the right one out.

    :param seqs: The projected frames. *Shape:* ``(*, D)``.
    :param codes: The embeddings of codes. *Shape:* ``(C, D)``.
    :param temperature: *Range:* greater than 0.
    :returns: *Shape:* ``(*, C)``.
    """
    with torch.autocast(seqs.device.type, enabled=False):
        frames = normalize(_at_least_float32(seqs), dim=-1, eps=_COSINE_EPS)
        directions = normalize(_at_least_float32(codes), dim=-1, eps=_COSINE_EPS)

        # (*, D) x (D, C) -> (*, C)
        return frames @ (directions / temperature).T


def _at_least_float32(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
