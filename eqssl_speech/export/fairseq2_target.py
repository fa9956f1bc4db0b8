"""Asset cards for other programs on fairseq2, which find the model and its tokenizer by their names."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, final

import numpy as np
import numpy.typing as npt
from fairseq2.assets import AssetCard
from fairseq2.utils.structured import StandardValueConverter
from ruamel.yaml import YAML

from eqssl_speech.error import InputError
from eqssl_speech.export.files import save_tensors
from eqssl_speech.export.loading import ExportSource, make_export_source
from eqssl_speech.export.model import Outputs
from eqssl_speech.models.assets import open_asset
from eqssl_speech.models.formats.names import COUNTER
from eqssl_speech.text.tokenizer import MODEL_FILE

CARD_FILE: Final = "card.yaml"
WEIGHTS_FILE: Final = "model.safetensors"
TOKENIZER_DIR: Final = "tokenizer"

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]*")


def check_name(name: str) -> None:
    """Refuse what cannot be the name of an asset.

    :raises InputError: If the name has other characters than letters, digits, ``_``, ``.`` and ``-``.
    """
    if not _NAME.fullmatch(name):
        raise InputError(
            f"The name of an asset must consist of letters, digits, `_`, `.` and `-`, but is {name!r} instead; give "
            "another `--name`."
        )


def write_fairseq2(directory: Path, source: ExportSource, name: str) -> tuple[str, ...]:
    """Write a model, and the card that describes it, ``card.yaml``.

    :param directory: Where to; it must exist. It can be moved: the card names files relative to itself.
    :param source: The model.
    :param name: What the asset is to be called; its tokenizer is called so with ``_tokenizer`` behind it.
    :returns: Nothing is left out.
    """
    checkpoint = source.checkpoint

    # An encoder alone would have no head to fill; a whole model has all that its family has.
    missing = [n for n in source.module.state_dict() if n not in source.tensors]
    missing = [n for n in missing if n != COUNTER]
    if missing:
        raise InputError(
            f"{checkpoint.source}: has no tensor `{missing[0]}`, which a model of the family `{checkpoint.family}` of "
            "fairseq2 needs; export a whole model, or this one `--to hf`."
        )

    tensors = {n: x.contiguous() for n, x in source.module.state_dict().items()}

    save_tensors(tensors, directory / WEIGHTS_FILE)

    card: dict[str, Any] = {
        "name": name,
        "model_family": checkpoint.family,
        "model_config": StandardValueConverter().unstructure(checkpoint.config),
        "checkpoint": WEIGHTS_FILE,
    }
    cards = [card]

    tokenizer = source.tokenizer
    if tokenizer is not None:
        tokenizer.save(directory / TOKENIZER_DIR)

        card["tokenizer_ref"] = f"{name}_tokenizer"
        cards.append(
            {
                "name": f"{name}_tokenizer",
                "tokenizer_family": "char_tokenizer",
                "tokenizer": f"{TOKENIZER_DIR}/{MODEL_FILE}",
            }
        )

    text = io.StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.dump_all(cards, text)

    (directory / CARD_FILE).write_text(text.getvalue(), encoding="utf-8")

    return ()


@final
class Fairseq2Runner:
    """Computes an exported model as a program on fairseq2 does that finds its card."""

    def __init__(self, directory: Path) -> None:
        """:param directory: What :func:`write_fairseq2` wrote."""
        yaml = YAML(typ="safe", pure=True)

        metadata = next(iter(yaml.load_all(directory / CARD_FILE)))
        card = AssetCard(metadata["name"], metadata | {"__base_path__": directory.absolute()})

        self._model = make_export_source(open_asset(card), None).make_plain()

    def run(self, waveforms: Sequence[npt.NDArray[np.float32]]) -> Outputs:
        """Compute recordings; see :class:`~eqssl_speech.export.model.Runner`."""
        return self._model.run(waveforms)
