"""Models that fairseq2 knows by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from difflib import get_close_matches
from typing import Any, Final
from urllib.parse import quote

import torch
from fairseq2.assets import AssetCard, AssetCardError, AssetDownloadError, get_asset_store
from fairseq2.assets.dirs import AssetDirectoryAccessor
from fairseq2.device import CPU
from fairseq2.error import OperationalError
from fairseq2.models import ModelGatedError, ModelHub
from fairseq2.models.wav2vec2 import get_wav2vec2_model_hub
from fairseq2.models.wav2vec2.asr import get_wav2vec2_asr_model_hub
from fairseq2.runtime.dependency import get_dependency_resolver
from filelock import FileLock

from eqssl_speech.error import InputError
from eqssl_speech.models.formats.names import Family
from eqssl_speech.models.formats.shapes import AnyConfig
from eqssl_speech.models.hubert import HubertConfig, get_hubert_model_hub
from eqssl_speech.models.speech_checkpoint import SpeechCheckpoint

_HUBS: Final[Mapping[Family, Callable[[], ModelHub[Any, Any]]]] = {
    "wav2vec2": get_wav2vec2_model_hub,
    "wav2vec2_asr": get_wav2vec2_asr_model_hub,
    "hubert": get_hubert_model_hub,
}

_FAMILIES: Final = " or ".join(_HUBS)


def find_card(name: str) -> AssetCard:
    """Find the card of a model.

    :raises InputError: If there is none, or it is of a model that we have not.
    """
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
            f"{f' (close ones: {close})' if close else ''}; correct it."
        )

    family = card.maybe_get_field("model_family")

    if family is None or family.value not in _HUBS:
        what = "no model" if family is None else f"a model of the family `{family.value}`"
        raise InputError(f"The asset `{name}` is {what}; one of {_FAMILIES} is needed.")

    return card


def read_asset_config(card: AssetCard) -> AnyConfig:
    """Read what the model of a card looks like; nothing is downloaded.

    :raises InputError: If the card cannot be used.
    """
    try:
        config: AnyConfig = _find_hub(card).get_model_config(card)
    except AssetCardError as ex:
        raise InputError(f"The asset card `{card.name}` cannot be used: {ex}") from None

    return config


def _find_hub(card: AssetCard) -> ModelHub[Any, Any]:
    return _HUBS[_family_of(card)]()


def _family_of(card: AssetCard) -> Family:
    name = card.field("model_family").as_(str)

    return next(family for family in _HUBS if family == name)


def open_asset(card: AssetCard) -> SpeechCheckpoint:
    """Read the model that an asset card describes; it is downloaded.

    :raises InputError: If the card or the model cannot be used.
    """
    config = read_asset_config(card)

    # Releases of HuBERT elsewhere than at fairseq have nothing but the encoder.
    if isinstance(config, HubertConfig):
        config = replace(config, init_missing_head=True)

    try:
        # Processes that download the same file into one cache would take it away from each other.
        with _lock(card):
            model = _find_hub(card).load_model(card, device=CPU, dtype=torch.float32, config=config)
    except InputError as ex:
        raise InputError(f"The asset `{card.name}` cannot be loaded: {ex}") from None
    except (AssetCardError, AssetDownloadError, ModelGatedError, OperationalError) as ex:
        raise InputError(
            f"The asset `{card.name}` cannot be loaded ({ex}); "
            "see that the network can be reached, or give a file or directory instead."
        ) from None

    return SpeechCheckpoint(
        f"the asset {card.name}", _family_of(card), config, model.state_dict(), None, None
    )


def _lock(card: AssetCard) -> FileLock:
    directory = get_dependency_resolver().resolve(AssetDirectoryAccessor).get_cache_dir()
    directory.mkdir(parents=True, exist_ok=True)

    return FileLock(directory / f"{quote(card.name, safe='')}.lock")
