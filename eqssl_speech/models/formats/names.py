"""How other libraries call the tensors of wav2vec 2.0 and HuBERT.

It is written down in one direction, from our names (which are fairseq2's) to theirs. The other direction follows from
the list of a model's tensors, so that the two cannot differ.

Weight norm of the position encoder: ours has ``weight_g`` (the norms) and ``weight_v`` (the directions), as older files
have; torch's parametrization, which newer ones have, calls them ``original0`` and ``original1``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, final

Family: TypeAlias = Literal["wav2vec2", "wav2vec2_asr", "hubert"]
"""The families of models: wav2vec 2.0, a recogniser (whose encoder may be that of a HuBERT), and HuBERT."""

_FRONTEND: Final = r"encoder_frontend\."
_CONVOLUTION: Final = rf"{_FRONTEND}feature_extractor\.layers\.(\d+)\."
_LAYER: Final = r"encoder\.layers\.(\d+)\."

_ENCODER: Final = re.compile(r"(masker|encoder_frontend|encoder)\.")

_PARAMETRIZATION: Final = {
    "weight_g": "parametrizations.weight.original0",
    "weight_v": "parametrizations.weight.original1",
}

COUNTER: Final = "quantizer.num_updates"
"""Our count of a wav2vec 2.0's updates, by which its quantizer cools down; no other library stores it."""


@final
@dataclass(frozen=True)
class Library:
    """How a library calls the tensors of our models."""

    name: str

    mark: re.Pattern[str]
    """Is found in a name of each of its checkpoints, and in none of a library's that stands behind it in
    :data:`LIBRARIES`, nor in one of ours."""

    encoder: Mapping[str, str]
    """Patterns of what the names of an encoder begin with, and what stands in their place. The first counts."""

    heads: Mapping[Family, Mapping[str, str]]
    """The same of what is on top of the encoder; where there is no entry, the library has no such model."""

    prefixes: tuple[str, ...]
    """What the names of an encoder may begin with where it is a part of a larger model."""

    ignored: re.Pattern[str]
    """Names of what is no part of our models: heads for other tasks, and parts that compute nothing."""

    outside: tuple[str, ...] = ()
    """Names of an encoder's tensors that have no prefix even where the others have one."""


TRANSFORMERS: Final = Library(
    name="Hugging Face transformers",
    mark=re.compile(r"(^|\.)feature_extractor\.conv_layers\.\d+\.conv\."),
    encoder={
        r"masker\.temporal_mask_embed$": "masked_spec_embed",
        rf"{_CONVOLUTION}conv\.": r"feature_extractor.conv_layers.\1.conv.",
        rf"{_CONVOLUTION}(?:group|layer)_norm\.": r"feature_extractor.conv_layers.\1.layer_norm.",
        rf"{_FRONTEND}post_extract_layer_norm\.": "feature_projection.layer_norm.",
        rf"{_FRONTEND}model_dim_proj\.": "feature_projection.projection.",
        rf"{_FRONTEND}pos_encoder\.conv\.": "encoder.pos_conv_embed.conv.",
        # In front of the layers, or behind those that begin with a norm of their own; never both.
        rf"(?:{_FRONTEND}|encoder\.)layer_norm\.": "encoder.layer_norm.",
        rf"{_LAYER}self_attn\.output_proj\.": r"encoder.layers.\1.attention.out_proj.",
        rf"{_LAYER}self_attn\.": r"encoder.layers.\1.attention.",
        rf"{_LAYER}self_attn_layer_norm\.": r"encoder.layers.\1.layer_norm.",
        rf"{_LAYER}ffn\.inner_proj\.": r"encoder.layers.\1.feed_forward.intermediate_dense.",
        rf"{_LAYER}ffn\.output_proj\.": r"encoder.layers.\1.feed_forward.output_dense.",
        rf"{_LAYER}ffn_layer_norm\.": r"encoder.layers.\1.final_layer_norm.",
    },
    heads={
        "wav2vec2": {
            r"quantizer\.entries$": "quantizer.codevectors",
            r"quantizer\.entry_proj\.": "quantizer.weight_proj.",
            r"final_proj\.": "project_hid.",
            r"final_target_proj\.": "project_q.",
        },
        "wav2vec2_asr": {r"final_proj\.": "lm_head."},
    },
    prefixes=("wav2vec2.", "hubert."),
    ignored=re.compile(r"(lm_head|project_hid|project_q|quantizer|classifier|projector)\."),
)

FAIRSEQ: Final = Library(
    name="fairseq",
    mark=re.compile(r"(^|\.)feature_extractor\.conv_layers\.\d+\.0\."),
    encoder={
        r"masker\.temporal_mask_embed$": "mask_emb",
        rf"{_CONVOLUTION}conv\.": r"feature_extractor.conv_layers.\1.0.",
        rf"{_CONVOLUTION}group_norm\.": r"feature_extractor.conv_layers.\1.2.",
        rf"{_CONVOLUTION}layer_norm\.": r"feature_extractor.conv_layers.\1.2.1.",
        rf"{_FRONTEND}post_extract_layer_norm\.": "layer_norm.",
        rf"{_FRONTEND}model_dim_proj\.": "post_extract_proj.",
        rf"{_FRONTEND}pos_encoder\.conv\.": "encoder.pos_conv.0.",
        rf"(?:{_FRONTEND}|encoder\.)layer_norm\.": "encoder.layer_norm.",
        rf"{_LAYER}self_attn\.output_proj\.": r"encoder.layers.\1.self_attn.out_proj.",
        rf"{_LAYER}ffn\.inner_proj\.": r"encoder.layers.\1.fc1.",
        rf"{_LAYER}ffn\.output_proj\.": r"encoder.layers.\1.fc2.",
        rf"{_LAYER}ffn_layer_norm\.": r"encoder.layers.\1.final_layer_norm.",
    },
    heads={
        "wav2vec2": {
            r"quantizer\.entries$": "quantizer.vars",
            r"quantizer\.entry_proj\.": "quantizer.weight_proj.",
            r"final_target_proj\.": "project_q.",
        },
        "wav2vec2_asr": {r"final_proj\.": "w2v_encoder.proj."},
        "hubert": {r"code_embeddings$": "label_embs_concat"},
    },
    prefixes=("w2v_encoder.w2v_model.",),
    ignored=re.compile(
        r"(w2v_encoder\.proj\.|final_proj\.|project_q\.|quantizer\.|label_embs_concat$)"
    ),
)

_TORCHAUDIO_PARTS: Final = {
    "encoder": "transformer",
    "feature_projection": "feature_projection",
}
"""Where torchaudio has the parts that it names as transformers does."""

TORCHAUDIO: Final = Library(
    name="torchaudio",
    mark=re.compile(r"(^|\.)encoder\.transformer\."),
    encoder={
        r"masker\.temporal_mask_embed$": "mask_generator.mask_embedding",
        **{
            pattern: re.sub(
                r"^(encoder|feature_projection)\.",
                lambda match: f"encoder.{_TORCHAUDIO_PARTS[match[1]]}.",
                theirs,
            )
            for pattern, theirs in TRANSFORMERS.encoder.items()
            if theirs != "masked_spec_embed"
        },
    },
    heads={
        "wav2vec2_asr": {r"final_proj\.": "aux."},
        "hubert": {
            r"code_embeddings$": "logit_generator.label_embeddings",
            r"final_proj\.": "logit_generator.final_proj.",
        },
    },
    prefixes=("wav2vec2.",),
    ignored=re.compile(r"(aux|logit_generator)\."),
    outside=("mask_generator.mask_embedding",),
)

LIBRARIES: Final = (TORCHAUDIO, FAIRSEQ, TRANSFORMERS)
"""The libraries whose checkpoints can be read. Torchaudio's names have the mark of transformers' as well."""


def find_library(names: Iterable[str]) -> Library | None:
    """Find the library that a checkpoint is of.

    :param names: The names of its tensors.
    :returns: The library; ``None`` if it is none of :data:`LIBRARIES`, as with checkpoints of our own.
    """
    names = list(names)

    for library in LIBRARIES:
        if any(library.mark.search(name) for name in names):
            return library

    return None


def spell(name: str, family: Family, library: Library, prefix: str = "") -> str:
    """Say how a library calls a tensor.

    :param name: Our name of it.
    :param family: The family of the model that it is of.
    :param library: The library.
    :param prefix: What the names of the encoder begin with there, one of the library's ``prefixes``.
    :raises KeyError: If the library has no such tensor.
    """
    if _ENCODER.match(name):
        theirs = _replace_beginning(name, library.encoder)

        return theirs if theirs in library.outside else prefix + theirs

    rules = library.heads.get(family)
    if rules is None or name == COUNTER:
        raise KeyError(name)

    return _replace_beginning(name, rules)


def list_spellings(names: Iterable[str], family: Family, library: Library) -> dict[str, str]:
    """List how a library may call the tensors of a model.

    :param names: Our names of all of them.
    :param family: The family of the model.
    :param library: The library.
    :returns: Our name by each of theirs: with every prefix and without, by older and newer names of weight norm.
    """
    spellings = {}

    for name in names:
        try:
            theirs = spell(name, family, library)
        except KeyError:
            continue

        # Fine-tuned models of fairseq have what is left of the head of pre-training behind the prefix as well.
        for prefix in ("", *library.prefixes):
            spellings[prefix + theirs] = name
            spellings[prefix + parametrize(theirs)] = name

    return spellings


def is_ignored(name: str, library: Library) -> bool:
    """Say whether a tensor is of what our models never have: heads for other tasks, and the like.

    :param name: The library's name of it.
    """
    for prefix in library.prefixes:
        name = name.removeprefix(prefix)

    return library.ignored.match(name) is not None


def parametrize(name: str) -> str:
    """Replace the older name of a tensor of weight norm by the newer one; other names stay."""
    head, _, tail = name.rpartition(".")

    return f"{head}.{_PARAMETRIZATION[tail]}" if tail in _PARAMETRIZATION else name


def _replace_beginning(name: str, rules: Mapping[str, str]) -> str:
    for pattern, theirs in rules.items():
        replaced, count = re.subn(f"^{pattern}", theirs, name)
        if count > 0:
            return replaced

    return name
