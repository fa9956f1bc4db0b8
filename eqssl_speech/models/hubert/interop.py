"""Reads HuBERTs of other libraries: fairseq, Hugging Face transformers and torchaudio.

fairseq's dictionaries begin with four symbols that are no codes (``<s>``, ``<pad>``, ``</s>``, ``<unk>``), so its
models have four embeddings more per label set than there are clusters, and its labels are larger by four. These
embeddings are left out, so that label ``k`` is cluster ``k``; probabilities are then those among the clusters alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final, cast

import torch
from fairseq2.device import META_DEVICE
from torch import Tensor
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present

from eqssl_speech.error import InputError
from eqssl_speech.models.formats.names import (
    FAIRSEQ,
    Library,
    find_library,
    is_ignored,
    list_spellings,
)
from eqssl_speech.models.hubert.config import HUBERT_FAMILY, HubertConfig
from eqssl_speech.models.hubert.factory import create_hubert_model

NUM_SPECIAL_SYMBOLS: Final = 4

_EXTRACTOR: Final = "encoder_frontend.feature_extractor.layers"

_HEAD: Final = (
    "masker.temporal_mask_embed",
    "final_proj.weight",
    "final_proj.bias",
    "code_embeddings",
)
"""What only pre-training needs."""


def convert_hubert_state_dict(
    state_dict: dict[str, object], config: HubertConfig
) -> dict[str, object]:
    """Give the tensors of a checkpoint our names.

    Taken are checkpoints of our own, of fairseq, of Hugging Face's ``HubertModel`` and ``HubertForCTC``, and of
    torchaudio's HuBERTs; their output layers for other tasks are left out. Hugging Face's large models have a bias in
    convolutions where the original has none; if it is zero throughout, it is left out as well.

    :param state_dict: The tensors, or a dictionary that has them under ``model``.
    :param config: The configuration of the model that they are for. Where ``init_missing_head`` is set, what only
        pre-training needs is initialised if the checkpoint has it not, the same for the same seed.
    :returns: A new dictionary.
    :raises InputError: If the checkpoint has no head for pre-training and ``init_missing_head`` is not set; or if it is
        of another library and does not fit the configuration.
    """
    if isinstance(state_dict.get("model"), Mapping):
        state_dict = cast(dict[str, object], state_dict["model"])

    tensors = {name: x for name, x in state_dict.items() if isinstance(x, Tensor)}

    consume_prefix_in_state_dict_if_present(tensors, "module.")

    library = find_library(tensors)

    if library is not None:
        tensors = _rename(tensors, library, config)

        if library is FAIRSEQ:
            drop_special_symbols(tensors, config.num_codes)

    _complete_head(tensors, config)

    if library is not None:
        _fit(tensors, library, config)

    return dict(tensors)


def _rename(
    tensors: Mapping[str, Tensor], library: Library, config: HubertConfig
) -> dict[str, Tensor]:
    """Give the tensors of a HuBERT our names; those that it has not, but heads for other tasks, keep theirs."""
    num_convolutions = len(config.encoder_config.feature_extractor_layer_descs)

    names = [
        *_make_empty_state(config),
        *(f"{_EXTRACTOR}.{i}.conv.bias" for i in range(num_convolutions)),
    ]

    spellings = list_spellings(names, HUBERT_FAMILY, library)

    return {
        spellings.get(name, name): tensor
        for name, tensor in tensors.items()
        if name in spellings or not is_ignored(name, library)
    }


def drop_special_symbols(tensors: dict[str, Tensor], num_codes: Sequence[int]) -> None:
    """Leave out the embeddings of fairseq's symbols that are no codes, if they are there.

    :param tensors: The tensors, by our names; changed.
    :param num_codes: The number of codes of each label set.
    """
    embeddings = tensors.get("code_embeddings")

    sizes = [num + NUM_SPECIAL_SYMBOLS for num in num_codes]

    if embeddings is not None and len(embeddings) == sum(sizes):
        tensors["code_embeddings"] = torch.cat(
            [part[NUM_SPECIAL_SYMBOLS:] for part in embeddings.split(sizes)]
        )


def _complete_head(tensors: dict[str, Tensor], config: HubertConfig) -> None:
    missing = [name for name in _HEAD if name not in tensors]
    if not missing:
        return

    if not config.init_missing_head:
        raise InputError(
            f"The checkpoint has no tensor `{missing[0]}`, which pre-training needs; set `init_missing_head` in the "
            "configuration of the model to begin with a new one, or give a checkpoint of pre-training."
        )

    # Nothing is taken from torch's generator, so that the run goes on as if the head had been read.
    generator = torch.Generator().manual_seed(torch.initial_seed())

    shapes = {name: tensor.shape for name, tensor in _make_empty_state(config).items()}

    for name in missing:
        values = torch.rand(shapes[name], generator=generator)

        # As the modules do it: a projection symmetric around zero, embeddings in [0, 1).
        if name.startswith("final_proj."):
            values = (2.0 * values - 1.0) / math.sqrt(config.encoder_config.model_dim)

        tensors[name] = values


def _make_empty_state(config: HubertConfig) -> dict[str, Tensor]:
    with META_DEVICE:
        return dict(create_hubert_model(config).state_dict())


def _fit(tensors: dict[str, Tensor], library: Library, config: HubertConfig) -> None:
    expected = _make_empty_state(config)

    where = f"The checkpoint, which is of {library.name},"

    missing = [name for name in expected if name not in tensors]
    if missing:
        raise InputError(
            f"{where} has nothing for the tensor `{missing[0]}`{_and_more(missing)}, which the model has; set the "
            "configuration of the model to that of the checkpoint."
        )

    for name in [name for name in tensors if name not in expected]:
        is_bias = name.startswith(_EXTRACTOR) and name.endswith(".conv.bias")

        if is_bias and not bool(tensors[name].any()):
            del tensors[name]

    surplus = [name for name in tensors if name not in expected]
    if surplus:
        raise InputError(
            f"{where} has the tensor `{surplus[0]}`{_and_more(surplus)}, which the model has not; set the "
            "configuration of the model to that of the checkpoint."
        )

    wrong = [name for name in expected if tensors[name].shape != expected[name].shape]
    if wrong:
        raise InputError(
            f"{where} has the tensor `{wrong[0]}` in the shape {tuple(tensors[wrong[0]].shape)}, but the model in "
            f"{tuple(expected[wrong[0]].shape)}{_and_more(wrong)}; set the configuration of the model to that of the "
            "checkpoint."
        )


def _and_more(names: Sequence[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""
