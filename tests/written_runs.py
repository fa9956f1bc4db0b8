"""Output directories of runs, written as the host writes them."""

from __future__ import annotations

from pathlib import Path

import torch
from fairseq2.checkpoint import StandardModelMetadataDumper
from fairseq2.file_system import NativeLocalFileSystem
from fairseq2.utils.structured import StandardValueConverter
from fairseq2.utils.yaml import RuamelYamlDumper
from torch import Tensor


def write_run(
    run: Path,
    tensors: dict[str, Tensor],
    config: object,
    family: str = "wav2vec2",
    step_nr: int = 500,
) -> None:
    """Write a run with one checkpoint."""
    files = NativeLocalFileSystem()
    dumper = StandardModelMetadataDumper(files, RuamelYamlDumper(files), StandardValueConverter())
    dumper.dump(run / "checkpoints", family, config)

    file = run / "checkpoints" / f"step_{step_nr}" / "model" / "pp_00" / "tp_00" / "sdp_00.pt"
    file.parent.mkdir(parents=True)
    torch.save(tensors, file)
