"""Runs ``eqssl evaluate`` with a stand-in for the model. Started by torchrun, or alone."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from pathlib import Path
from types import ModuleType

sys.path.insert(0, str(Path(__file__).parents[1]))

import eqssl_speech  # noqa: F401  # isort: skip  # Before fairseq2, as it makes libsndfile findable.

from spelled_audio import SpelledRecognizer

from eqssl_speech.cli import evaluate as command

if __name__ == "__main__":
    module = ModuleType("eqssl_speech.tasks.recognizer")
    module.load_recognizer = lambda path, **more: SpelledRecognizer()  # type: ignore[attr-defined]
    sys.modules["eqssl_speech.tasks.recognizer"] = module

    parser = ArgumentParser()
    command.add(parser.add_subparsers())
    options = parser.parse_args(["evaluate", "model", *sys.argv[1:]])

    sys.exit(options.run(options))
