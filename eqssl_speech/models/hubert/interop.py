"""Reads HuBERTs of other libraries: fairseq, Hugging Face transformers and torchaudio.

Weight norm of the position encoder: ours, as the host's, has ``weight_g`` (the norms) and ``weight_v`` (the
directions); torch's parametrization, which newer files have, calls them ``original0`` and ``original1``.

fairseq's dictionaries begin with four symbols that are no codes (``<s>``, ``<pad>``, ``</s>``, ``<unk>``), so its
models have four embeddings more per label set than there are clusters, and its labels are larger by four. These
embeddings are left out, so that label ``k`` is cluster ``k``; probabilities are then those among the clusters alone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, cast, final

import torch
from fairseq2.device import META_DEVICE
from fairseq2.models.transformer import TransformerNormOrder
from torch import Tensor
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present

from eqssl_speech.error import InputError
from eqssl_speech.models.hubert.config import HubertConfig
from eqssl_speech.models.hubert.factory import create_hubert_model

_NUM_SPECIAL_SYMBOLS: Final = 4

_FRONTEND: Final = "encoder_frontend"
_EXTRACTOR: Final = f"{_FRONTEND}.feature_extractor.layers"

_HEAD: Final = (
    "masker.temporal_mask_embed",
    "final_proj.weight",
    "final_proj.bias",
    "code_embeddings",
)
"""What only pre-training needs."""


@final
@dataclass(frozen=True)
class _Library:
    """How a library calls the tensors of a HuBERT."""

    name: str

    mark: str
    """A pattern of a name that only it has."""

    prefixes: tuple[str, ...]
    """What names may begin with, besides."""

    dropped: tuple[str, ...]
    """Beginnings of names of what is no part of a HuBERT: output layers for other tasks."""

    names: Mapping[str, str]
    """Patterns of the beginnings of its names, after the prefix, and ours."""


_FAIRSEQ: Final = _Library(
    name="fairseq",
    mark=r"feature_extractor\.conv_layers\.\d+\.0\.",
    prefixes=("w2v_encoder.w2v_model.",),
    dropped=("w2v_encoder.proj.",),
    names={
        r"mask_emb$": "masker.temporal_mask_embed",
        r"label_embs_concat$": "code_embeddings",
        r"feature_extractor\.conv_layers\.(\d+)\.0\.": rf"{_EXTRACTOR}.\1.conv.",
        r"feature_extractor\.conv_layers\.0\.2\.(?=[a-z])": f"{_EXTRACTOR}.0.group_norm.",
        r"feature_extractor\.conv_layers\.(\d+)\.2\.1\.": rf"{_EXTRACTOR}.\1.layer_norm.",
        r"layer_norm\.": f"{_FRONTEND}.post_extract_layer_norm.",
        r"post_extract_proj\.": f"{_FRONTEND}.model_dim_proj.",
        r"encoder\.pos_conv\.0\.": f"{_FRONTEND}.pos_encoder.conv.",
        r"encoder\.layers\.(\d+)\.self_attn\.out_proj\.": r"encoder.layers.\1.self_attn.output_proj.",
        r"encoder\.layers\.(\d+)\.fc1\.": r"encoder.layers.\1.ffn.inner_proj.",
        r"encoder\.layers\.(\d+)\.fc2\.": r"encoder.layers.\1.ffn.output_proj.",
        r"encoder\.layers\.(\d+)\.final_layer_norm\.": r"encoder.layers.\1.ffn_layer_norm.",
    },
)

_TORCHAUDIO: Final = _Library(
    name="torchaudio",
    mark=r"encoder\.transformer\.",
    prefixes=("wav2vec2.",),
    dropped=("aux.",),
    names={
        r"mask_generator\.mask_embedding$": "masker.temporal_mask_embed",
        r"logit_generator\.label_embeddings$": "code_embeddings",
        r"logit_generator\.final_proj\.": "final_proj.",
        # The rest is called as in Hugging Face's, but for where it stands.
        r"encoder\.feature_projection\.": "feature_projection.",
        r"encoder\.transformer\.": "encoder.",
    },
)

_HUGGING_FACE: Final = _Library(
    name="Hugging Face transformers",
    mark=r"feature_extractor\.conv_layers\.\d+\.conv\.",
    prefixes=("hubert.",),
    dropped=("lm_head.",),
    names={
        r"masked_spec_embed$": "masker.temporal_mask_embed",
        r"feature_extractor\.conv_layers\.(\d+)\.conv\.": rf"{_EXTRACTOR}.\1.conv.",
        r"feature_extractor\.conv_layers\.(\d+)\.layer_norm\.": rf"{_EXTRACTOR}.\1.layer_norm.",
        r"feature_projection\.layer_norm\.": f"{_FRONTEND}.post_extract_layer_norm.",
        r"feature_projection\.projection\.": f"{_FRONTEND}.model_dim_proj.",
        r"encoder\.pos_conv_embed\.conv\.": f"{_FRONTEND}.pos_encoder.conv.",
        r"encoder\.layers\.(\d+)\.attention\.out_proj\.": r"encoder.layers.\1.self_attn.output_proj.",
        r"encoder\.layers\.(\d+)\.attention\.": r"encoder.layers.\1.self_attn.",
        r"encoder\.layers\.(\d+)\.layer_norm\.": r"encoder.layers.\1.self_attn_layer_norm.",
        r"encoder\.layers\.(\d+)\.feed_forward\.intermediate_dense\.": r"encoder.layers.\1.ffn.inner_proj.",
        r"encoder\.layers\.(\d+)\.feed_forward\.output_dense\.": r"encoder.layers.\1.ffn.output_proj.",
        r"encoder\.layers\.(\d+)\.final_layer_norm\.": r"encoder.layers.\1.ffn_layer_norm.",
    },
)

_WEIGHT_NORM: Final = {
    "parametrizations.weight.original0": "weight_g",
    "parametrizations.weight.original1": "weight_v",
}


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

    library = _find_library(tensors)

    if library is not None:
        tensors = _rename(tensors, library, config)

        if library is _FAIRSEQ:
            _drop_special_symbols(tensors, config.num_codes)

    _complete_head(tensors, config)

    if library is not None:
        _fit(tensors, library, config)

    return dict(tensors)


def _find_library(names: Mapping[str, Tensor]) -> _Library | None:
    # Torchaudio's names have the mark of Hugging Face's as well.
    for library in (_TORCHAUDIO, _FAIRSEQ, _HUGGING_FACE):
        if any(re.search(library.mark, name) for name in names):
            return library

    return None


def _rename(
    tensors: Mapping[str, Tensor], library: _Library, config: HubertConfig
) -> dict[str, Tensor]:
    renamed = {}

    for name, tensor in tensors.items():
        if not name.startswith(library.dropped):
            renamed[_translate(name, library, config)] = tensor

    return renamed


def _translate(name: str, library: _Library, config: HubertConfig) -> str:
    for prefix in library.prefixes:
        name = name.removeprefix(prefix)

    name = _replace_beginning(name, library.names)

    if library is _TORCHAUDIO:
        name = _replace_beginning(name, _HUGGING_FACE.names)

    if library is not _FAIRSEQ and not config.encoder_config.feature_extractor_layer_norm_convs:
        name = name.replace(f"{_EXTRACTOR}.0.layer_norm.", f"{_EXTRACTOR}.0.group_norm.")

    # The norm that stands behind the encoder where its layers begin with one, and otherwise in front of it.
    if config.encoder_config.norm_order == TransformerNormOrder.POST:
        name = re.sub(r"^encoder\.layer_norm\.", f"{_FRONTEND}.layer_norm.", name)

    for ending, ours in _WEIGHT_NORM.items():
        if name.endswith(ending):
            name = name.removesuffix(ending) + ours

    return name


def _replace_beginning(name: str, names: Mapping[str, str]) -> str:
    for pattern, ours in names.items():
        replaced, count = re.subn(f"^{pattern}", ours, name)
        if count > 0:
            return replaced

    return name


def _drop_special_symbols(tensors: dict[str, Tensor], num_codes: Sequence[int]) -> None:
    embeddings = tensors.get("code_embeddings")

    sizes = [num + _NUM_SPECIAL_SYMBOLS for num in num_codes]

    if embeddings is not None and len(embeddings) == sum(sizes):
        tensors["code_embeddings"] = torch.cat(
            [part[_NUM_SPECIAL_SYMBOLS:] for part in embeddings.split(sizes)]
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


def _fit(tensors: dict[str, Tensor], library: _Library, config: HubertConfig) -> None:
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
