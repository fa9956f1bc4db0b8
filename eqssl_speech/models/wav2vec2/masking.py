"""The masks of wav2vec 2.0 and HuBERT as positions of frames that are known before a GPU has computed anything.

How many frames are masked decides the shapes of what follows. The host draws masks on the device and so waits for it
in each step; here they are drawn on the processor, where waiting costs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from fairseq2.models.wav2vec2.masker import StandardWav2Vec2Masker
from fairseq2.models.wav2vec2.model import Wav2Vec2Features
from fairseq2.nn import BatchLayout
from torch import Tensor


@dataclass
class MaskedFeatures(Wav2Vec2Features):
    """The host's features, and where the masked ones are."""

    positions: Tensor
    """The masked frames, counted through all utterances, in ascending order. *Shape:* ``(N x T)``."""

    @classmethod
    def of(cls, features: Wav2Vec2Features) -> MaskedFeatures:
        """Find the positions in the mask if nobody has told them, which waits for the device."""
        if isinstance(features, cls):
            return features

        return cls(
            features.seqs,
            features.seqs_layout,
            features.targets,
            features.temporal_mask,
            features.raw,
            _find_positions(features.temporal_mask),
        )


@final
class Masking:
    """Masks one batch as the host's masker does, and remembers where."""

    def __init__(self, masker: StandardWav2Vec2Masker) -> None:
        """:param masker: Holds the embedding of masked frames and the lengths and shares of masks."""
        self._masker = masker

        self.positions: Tensor
        """Set by the call: see :class:`MaskedFeatures`."""

        self._unmasked: Tensor
        self._device: torch.device

    def __call__(self, seqs: Tensor, seqs_layout: BatchLayout) -> tuple[Tensor, Tensor]:
        """
        Take the place of the masker in the host's frontend.

        :param seqs: The features. *Shape:* ``(N, S, M)``.
        :returns: The masked features and the mask of frames. *Shape:* ``(N, S, M)`` and ``(N, S)``.
        """
        masker, device = self._masker, seqs.device
        batch_size, seq_len, model_dim = seqs.shape

        if seqs_layout.packed:
            raise ValueError("`seqs` must not be a packed batch.")

        row_lens = torch.tensor(seqs_layout.seq_lens)

        mask = masker.mask_factory(
            shape=(batch_size, seq_len),
            span_len=masker.temporal_span_len,
            max_mask_prob=masker.max_temporal_mask_prob,
            row_lens=row_lens,
            min_num_spans=masker.min_num_temporal_mask_spans,
        )
        assert mask is not None

        self.positions = _send(_find_positions(mask), device)

        is_padding = torch.arange(seq_len) >= row_lens.unsqueeze(1)

        self._unmasked, self._device = ~(mask | is_padding), device

        mask = _send(mask, device)

        seqs = torch.where(mask.unsqueeze(2), masker.temporal_mask_embed.type_as(seqs), seqs)

        if masker.max_spatial_mask_prob > 0.0:
            spatial_mask = masker.mask_factory(
                shape=(batch_size, model_dim),
                span_len=masker.spatial_span_len,
                max_mask_prob=masker.max_spatial_mask_prob,
                min_num_spans=masker.min_num_spatial_mask_spans,
            )
            assert spatial_mask is not None

            seqs = seqs.masked_fill(_send(spatial_mask, device).unsqueeze(1), 0.0)

        return seqs, mask

    def find_unmasked(self) -> Tensor:
        """Return the frames that are neither masked nor padding, counted through all utterances, ascending; to be asked
        after the call. *Shape:* ``(U)``."""
        return _send(_find_positions(self._unmasked), self._device)


def pick_frames(seqs: Tensor, positions: Tensor) -> Tensor:
    """Pick the masked frames, of which every utterance has as many.

    :param seqs: *Shape:* ``(N, S, M)``.
    :param positions: See :class:`MaskedFeatures`.
    :returns: *Shape:* ``(N, T, M)``.
    """
    batch_size, _, model_dim = seqs.shape

    return seqs.flatten(0, 1).index_select(0, positions).view(batch_size, -1, model_dim)


def _find_positions(mask: Tensor) -> Tensor:
    return mask.flatten().nonzero().squeeze(1)


def _send(x: Tensor, device: torch.device) -> Tensor:
    # From ordinary memory the processor would wait for the copy, and for all that the device has to do before it.
    if device.type == "cuda":
        x = x.pin_memory()

    return x.to(device, non_blocking=True)
