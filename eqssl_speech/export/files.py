"""Files of an exported model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor


def write_json(file: Path, data: Mapping[str, object]) -> None:
    """Write a JSON object."""
    text = json.dumps(dict(data), indent=2, ensure_ascii=False, sort_keys=True)

    file.write_text(text + "\n", encoding="utf-8")


def save_tensors(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Write a file of safetensors, which transformers takes for one of torch."""
    file.touch()
    mode = file.stat().st_mode

    save_file(dict(tensors), file, metadata={"format": "pt"})

    # Safetensors makes files that nobody else may read.
    file.chmod(mode)
