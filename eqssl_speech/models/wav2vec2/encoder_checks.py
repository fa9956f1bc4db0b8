"""Finds the encoder in a checkpoint and refuses one that is not the model's."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Final

from fairseq2.models.wav2vec2 import Wav2Vec2EncoderConfig
from torch import Tensor

from eqssl_speech.error import InputError
from eqssl_speech.models.wav2vec2.asr import REGULARIZATION

# What is computed does not depend on these.
_FREE_FIELDS: Final = (*REGULARIZATION, "max_seq_len")

_KEY: Final = "model.config_overrides.encoder_config"

# Which field decides over the shape of a tensor; the first that fits says what is wrong, as the others follow from it.
_SHAPE_FIELDS: Final = (
    (r"encoder\.layers\.0\.self_attn\.q_proj\.weight", "model_dim"),
    (r"encoder_frontend\.post_extract_layer_norm\.", "feature_dim"),
    (r"encoder_frontend\.feature_extractor\.", "feature_extractor_layer_descs"),
    (r"encoder_frontend\.pos_encoder\.", "pos_conv_kernel_size"),
    (r"encoder\.layers\.[0-9]+\.ffn\.", "ffn_inner_dim"),
)

_LAYER: Final = re.compile(r"encoder\.layers\.[0-9]+\.")


def match_names(
    source: str, theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor]
) -> dict[str, str]:
    """Find the encoder in a checkpoint, which may have it under a prefix (``module.`` and the like).

    :param source: The checkpoint, in words.
    :param theirs: Its tensors.
    :param ours: The tensors of the model.
    :returns: The checkpoint's name of each tensor by the name that it has or would have in the model.
    :raises InputError: If there is no encoder in it, or more than one.
    """
    targets = {name for name in ours if is_encoder(name)}

    prefixes: Counter[str] = Counter()
    for name in theirs:
        parts = name.split(".")
        for start in range(len(parts)):
            if ".".join(parts[start:]) in targets:
                prefixes["".join(f"{part}." for part in parts[:start])] += 1

    if not prefixes:
        raise InputError(
            f"{source}: holds no tensor of a wav2vec 2.0 or HuBERT encoder (the first of its {len(theirs)} is "
            f"`{next(iter(theirs))}`); give a checkpoint of `eqssl pretrain`, a fairseq2 asset, or a file of their "
            "tensors."
        )

    (prefix, count), *others = prefixes.most_common()

    if others and others[0][1] == count:
        raise InputError(
            f"{source}: holds several encoders, under `{prefix}` and `{others[0][0]}`; "
            "save only the tensors of one."
        )

    return {
        name[len(prefix) :]: name
        for name in theirs
        if name.startswith(prefix) and is_encoder(name[len(prefix) :])
    }


def check_config(
    source: str,
    theirs: Wav2Vec2EncoderConfig,
    ours: Wav2Vec2EncoderConfig,
    *,
    guessed: Collection[str] = (),
) -> None:
    """Compare what two configurations compute; the model may have fewer layers.

    :param source: The checkpoint, in words.
    :param theirs: The configuration of its encoder.
    :param ours: That of the model's encoder.
    :param guessed: Fields that the checkpoint does not say, which may differ.
    :raises InputError: If they differ; it names the field and both values.
    """
    for field in fields(Wav2Vec2EncoderConfig):
        if field.name in _FREE_FIELDS or field.name in guessed:
            continue

        value, wanted = getattr(ours, field.name), getattr(theirs, field.name)
        if value == wanted or (field.name == "num_encoder_layers" and value < wanted):
            continue

        raise InputError(
            f"`{_KEY}.{field.name}` is {value}, but the encoder of {source} has {wanted}; leave it out."
        )


def check_names(source: str, theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> None:
    """Check that the checkpoint's encoder has all tensors of the model's, and none besides but deeper layers.

    :param source: The checkpoint, in words.
    :param theirs: The tensors of its encoder, under the model's names.
    :param ours: The tensors of the model.
    :raises InputError: If one is missing or left over.
    """
    # A masker is made where there is none, and not needed where the model does not mask.
    missing = [n for n in ours if is_encoder(n) and n not in theirs and not _is_masker(n)]
    if missing:
        raise InputError(
            f"{source}: has no tensor `{missing[0]}`{_and_more(missing)}, which the model has; set `model.arch` (or "
            f"`{_KEY}`) to that of the checkpoint."
        )

    surplus = [
        n for n in theirs if n not in ours and not _is_masker(n) and not _is_deeper_layer(n, ours)
    ]
    if surplus:
        raise InputError(
            f"{source}: has the tensor `{surplus[0]}`{_and_more(surplus)}, which the model has not; set `model.arch` "
            f"(or `{_KEY}`) to that of the checkpoint."
        )


def check_shapes(source: str, theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> None:
    """Check that tensors of one name have one shape.

    :param source: The checkpoint, in words.
    :param theirs: The tensors of its encoder, under the model's names.
    :param ours: The tensors of the model.
    :raises InputError: If two differ; it names the tensor that shows best why, both shapes and the key to set.
    """
    wrong = [n for n in ours if n in theirs and theirs[n].shape != ours[n].shape]
    if not wrong:
        return

    name, field = wrong[0], None
    for pattern, candidate in reversed(_SHAPE_FIELDS):
        matches = [n for n in wrong if re.match(pattern, n)]
        if matches:
            name, field = matches[0], candidate

    key = f"`model.arch` (or `{_KEY}.{field}`)" if field else "`model.arch`"

    raise InputError(
        f"{source}: the tensor `{name}` has the shape {tuple(theirs[name].shape)}, but {tuple(ours[name].shape)} in "
        f"the model{_and_more(wrong)}; set {key} to that of the checkpoint."
    )


def is_encoder(name: str) -> bool:
    """Say whether a tensor is of the encoder, by our name of it."""
    return name.startswith(("encoder_frontend.", "encoder.", "masker."))


def _is_masker(name: str) -> bool:
    return name.startswith("masker.")


def _is_deeper_layer(name: str, ours: Iterable[str]) -> bool:
    match = _LAYER.match(name)

    return match is not None and not any(n.startswith(match[0]) for n in ours)


def _and_more(names: Sequence[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""
