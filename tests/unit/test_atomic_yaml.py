"""What the host writes as YAML is there whole or not at all."""

from __future__ import annotations

import io
from pathlib import Path
from typing import IO

import pytest
from fairseq2.file_system import LocalFileSystem
from fairseq2.utils.yaml import RuamelYamlDumper, YamlDumper

from eqssl_speech.tasks.output_dir import AtomicYamlDumper

CONFIG = {"model": {"arch": "tiny"}, "regime": {"num_steps": 3}, "name": "Ω"}


def test_text_is_the_hosts(tmp_path: Path) -> None:
    host = RuamelYamlDumper(LocalFileSystem())
    stream = io.StringIO()

    host.dump(CONFIG, tmp_path / "host.yaml")
    AtomicYamlDumper(host).dump(CONFIG, tmp_path / "ours.yaml")
    AtomicYamlDumper(host).dump(CONFIG, stream)

    assert (tmp_path / "ours.yaml").read_bytes() == (tmp_path / "host.yaml").read_bytes()
    assert stream.getvalue() == (tmp_path / "host.yaml").read_text(encoding="utf-8")


def test_an_end_in_the_middle_leaves_the_old_file(tmp_path: Path) -> None:
    class Interrupted(YamlDumper):
        def dump(self, obj: object, output: Path | IO[str]) -> None:
            assert not isinstance(output, Path)
            output.write("half of ")

            raise KeyboardInterrupt

    file = tmp_path / "config.yaml"
    file.write_text("old")

    with pytest.raises(KeyboardInterrupt):
        AtomicYamlDumper(Interrupted()).dump(CONFIG, file)

    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]
