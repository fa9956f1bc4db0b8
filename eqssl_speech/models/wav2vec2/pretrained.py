"""Where the encoder of an ASR model comes from, and how it gets there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, final

import torch
from fairseq2.assets import AssetCard, AssetCardError, AssetDownloadError, get_asset_store
from fairseq2.device import CPU
from fairseq2.error import OperationalError
from fairseq2.models import ModelGatedError, ModelHub
from fairseq2.models.wav2vec2 import (
    WAV2VEC2_FAMILY,
    Wav2Vec2EncoderConfig,
    get_wav2vec2_model_hub,
)
from fairseq2.models.wav2vec2.asr import (
    WAV2VEC2_ASR_FAMILY,
    Wav2Vec2AsrModel,
    get_wav2vec2_asr_model_hub,
)
from fairseq2.utils.structured import StandardValueConverter, StructureError
from torch import Tensor
from torch.nn import ModuleList

from eqssl_speech.error import InputError
from eqssl_speech.models.checkpoint import (
    TENSOR_FILE_SUFFIXES,
    RunCheckpoint,
    find_checkpoint,
    read_run_tensors,
    read_tensor_file,
)
from eqssl_speech.models.hubert import HUBERT_FAMILY, HubertConfig, get_hubert_model_hub
from eqssl_speech.models.wav2vec2.encoder_checks import (
    check_config,
    check_names,
    check_shapes,
    match_names,
    refuse_other_libraries,
)
from eqssl_speech.models.wav2vec2.load_report import LoadReport, count_elements

_HUBS: Final[Mapping[object, Callable[[], ModelHub[Any, Any]]]] = {
    WAV2VEC2_FAMILY: get_wav2vec2_model_hub,
    WAV2VEC2_ASR_FAMILY: get_wav2vec2_asr_model_hub,
    HUBERT_FAMILY: get_hubert_model_hub,
}

_FAMILIES: Final = " or ".join(map(str, _HUBS))


@final
@dataclass(frozen=True)
class PretrainedEncoder:
    """The tensors of a checkpoint that holds an encoder."""

    source: str
    """The checkpoint, in words."""

    tensors: Mapping[str, Tensor]
    """All tensors of the checkpoint, on the CPU."""

    config: Wav2Vec2EncoderConfig | None
    """The configuration of its encoder; ``None`` where the checkpoint does not say it."""


def read_encoder_config(spec: str | Path) -> Wav2Vec2EncoderConfig | None:
    """Read what a pre-trained encoder looks like, without its tensors.

    :param spec: As for :func:`open_encoder`.
    :returns: Its configuration, or ``None`` where there is only a file of tensors.
    :raises InputError: If there is no such checkpoint.
    """
    path = _find_path(spec)
    if path is None:
        return _read_card_config(_find_card(str(spec)))
    if path.is_dir():
        return _read_run_config(find_checkpoint(path))

    return None


def open_encoder(spec: str | Path) -> PretrainedEncoder:
    """Read a pre-trained encoder.

    :param spec: The output directory of `eqssl pretrain` or `eqssl finetune` (of whose steps the one of the best score
        is taken, or the last), or one of its ``step_N`` directories; a ``.pt`` or ``.safetensors`` file of tensors; or
        the name of a fairseq2 asset of the family ``wav2vec2``, ``wav2vec2_asr`` or ``hubert``, which is downloaded.
    :raises InputError: If there is no such checkpoint or it cannot be read.
    """
    path = _find_path(spec)
    if path is None:
        return _open_asset(_find_card(str(spec)))

    if path.is_dir():
        checkpoint = find_checkpoint(path)
        config = _read_run_config(checkpoint)
        is_whole_run = (
            checkpoint.step_nr is not None and checkpoint.model_dir.parent.name != path.name
        )
        source = f"{path}, step {checkpoint.step_nr}" if is_whole_run else str(path)

        return PretrainedEncoder(source, read_run_tensors(checkpoint), config)

    return PretrainedEncoder(str(path), read_tensor_file(path), None)


def load_encoder(
    model: Wav2Vec2AsrModel,
    pretrained: PretrainedEncoder | str | Path,
    encoder_config: Wav2Vec2EncoderConfig | None = None,
    *,
    num_new_layers: int = 0,
) -> LoadReport:
    """Fill the frontend, the encoder and the masker of a model; its output layer stays as it was initialised.

    :param model: The model, not a wrapper of it. On the meta device (ranks that get their parameters from the first
        one) it is only checked.
    :param pretrained: The encoder, or what :func:`open_encoder` takes.
    :param encoder_config: The configuration that the model was made of. If given, it is compared with that of the
        checkpoint, because not all of it shows in the shapes of tensors (the number of attention heads, strides).
    :param num_new_layers: So many of the model's last layers stay as they were initialised too.
    :returns: What was loaded, what was left out, and what is new.
    :raises InputError: If the checkpoint is of another library, or holds no encoder, or one that differs from the
        model's; nothing is loaded then. Fewer layers than the checkpoint's are allowed.
    :raises ValueError: If the model has fewer than ``num_new_layers`` layers.
    """
    if not isinstance(pretrained, PretrainedEncoder):
        pretrained = open_encoder(pretrained)

    source = pretrained.source

    refuse_other_libraries(source, pretrained.tensors)

    ours = dict(model.state_dict())

    # In the model's names; the checkpoint's own name of each.
    origins = match_names(source, pretrained.tensors, ours)
    theirs = {name: pretrained.tensors[origin] for name, origin in origins.items()}

    if encoder_config is not None and pretrained.config is not None:
        check_config(source, pretrained.config, encoder_config)

    check_names(source, theirs, ours)
    check_shapes(source, theirs, ours)

    new = _prefixes_of_last_layers(model, num_new_layers)

    loaded = [name for name in ours if name in theirs and not name.startswith(new)]

    _copy(source, {name: theirs[name] for name in loaded}, ours)

    used = {origins[name] for name in loaded}

    return LoadReport(
        source,
        loaded=count_elements(ours, loaded),
        left_out=count_elements(
            pretrained.tensors, (n for n in pretrained.tensors if n not in used)
        ),
        newly_made=count_elements(ours, (n for n in ours if n not in theirs or n.startswith(new))),
    )


def _find_path(spec: str | Path) -> Path | None:
    path = Path(spec)
    if path.exists():
        return path

    if isinstance(spec, Path) or "/" in spec or path.suffix in TENSOR_FILE_SUFFIXES:
        raise InputError(
            f"{spec}: there is no such checkpoint; correct the path of `pretrained`, or train it first."
        )

    return None


def _find_card(name: str) -> AssetCard:
    store = get_asset_store()

    try:
        card = store.maybe_retrieve_card(name)
    except AssetCardError as ex:
        raise InputError(f"The asset card `{name}` cannot be used: {ex}") from None

    if card is None:
        known = sorted(
            n.split("@")[0] for n in store.asset_names if n.startswith(("wav2vec2", "hubert"))
        )
        close = ", ".join(get_close_matches(name, known, n=3))

        raise InputError(
            f"`{name}` is neither a file or directory nor an asset that fairseq2 knows"
            f"{f' (close ones: {close})' if close else ''}; correct `pretrained`."
        )

    family = card.maybe_get_field("model_family")

    if family is None or family.value not in _HUBS:
        what = "no model" if family is None else f"a model of the family `{family.value}`"
        raise InputError(f"The asset `{name}` is {what}; `pretrained` takes one of {_FAMILIES}.")

    return card


def _read_card_config(card: AssetCard) -> Wav2Vec2EncoderConfig:
    config = _read_model_config(card).encoder_config

    assert isinstance(config, Wav2Vec2EncoderConfig)

    return config


def _read_model_config(card: AssetCard) -> Any:
    try:
        return _find_hub(card).get_model_config(card)
    except AssetCardError as ex:
        raise InputError(f"The asset card `{card.name}` cannot be used: {ex}") from None


def _find_hub(card: AssetCard) -> ModelHub[Any, Any]:
    return _HUBS[card.field("model_family").as_(str)]()


def _open_asset(card: AssetCard) -> PretrainedEncoder:
    config = _read_model_config(card)

    # Only the encoder is wanted, and releases of HuBERT elsewhere than at fairseq have nothing more.
    if isinstance(config, HubertConfig):
        config = replace(config, init_missing_head=True)

    try:
        model = _find_hub(card).load_model(card, device=CPU, dtype=torch.float32, config=config)
    except InputError as ex:
        raise InputError(f"The asset `{card.name}` cannot be loaded: {ex}") from None
    except (AssetCardError, AssetDownloadError, ModelGatedError, OperationalError) as ex:
        raise InputError(
            f"The asset `{card.name}` cannot be loaded ({ex}); "
            "see that the network can be reached, or give a file or directory instead."
        ) from None

    return PretrainedEncoder(f"the asset {card.name}", model.state_dict(), config.encoder_config)


def _read_run_config(checkpoint: RunCheckpoint) -> Wav2Vec2EncoderConfig | None:
    if checkpoint.family is None or checkpoint.config is None:
        return None

    where = checkpoint.model_dir.parent.parent / "model.yaml"

    if checkpoint.family not in _HUBS:
        raise InputError(
            f"{where}: is of the model family `{checkpoint.family}`; `pretrained` takes a run of "
            f"{_FAMILIES}."
        )

    try:
        config = StandardValueConverter().structure(
            checkpoint.config.get("encoder_config"), Wav2Vec2EncoderConfig
        )
    except StructureError as ex:
        raise InputError(
            f"{where}: the configuration of the encoder cannot be read ({ex.__cause__ or ex}); "
            "use the version of fairseq2 that it was made with."
        ) from None

    assert isinstance(config, Wav2Vec2EncoderConfig)

    return config


def _prefixes_of_last_layers(model: Wav2Vec2AsrModel, num_layers: int) -> tuple[str, ...]:
    layers = model.encoder.layers

    assert isinstance(layers, ModuleList)

    if not 0 <= num_layers <= len(layers):
        raise ValueError(
            f"`num_new_layers` must be in [0, {len(layers)}], but is {num_layers} instead."
        )

    return tuple(f"encoder.layers.{i}." for i in range(len(layers) - num_layers, len(layers)))


def _copy(source: str, theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> None:
    for name, tensor in theirs.items():
        if not bool(torch.isfinite(tensor).all()):
            raise InputError(
                f"{source}: the tensor `{name}` holds numbers that are not finite; take an earlier checkpoint."
            )

    with torch.no_grad():
        for name, tensor in theirs.items():
            ours[name].copy_(tensor)
