"""Packaging of eqssl_speech: pins, extras, the console command and fairseq2's extension point."""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent


def read_version() -> str:
    """Return ``__version__`` of the package without importing it (that would need fairseq2)."""
    text = (ROOT / "eqssl_speech" / "__init__.py").read_text(encoding="utf-8")

    match = re.search(r'^__version__(?:\s*:[^=]+)?\s*=\s*"([^"]+)"', text, re.MULTILINE)
    if match is None:
        raise RuntimeError('`eqssl_speech/__init__.py` must hold a line `__version__ = "..."`.')

    return match.group(1)


# N-grams, and beam search with them.
LM = ["flashlight-text~=0.0.7", "kaldingram==0.1.*"]

# k-means of `eqssl labels`.
LABELS = ["scikit-learn>=1.3", "threadpoolctl>=3.1"]

# What `eqssl export` compares with. To transformers and torchaudio it exports without them.
EXPORT = ["onnx>=1.18", "onnxruntime>=1.20", "sherpa-onnx>=1.12.20"]

TEST = [
    "pytest>=8",
    "pytest-xdist>=3.6",
    "jiwer~=4.0",
    "hypothesis~=6.100",
    "transformers~=4.57",
    *LM,
    *LABELS,
    *EXPORT,
]

CHECK = ["ruff>=0.9", "mypy>=1.14"]

# What tools/bench_inner.py compares with. Never needed to train. (learn2learn needs hand-work: see there.)
BENCH = ["higher", "torchopt"]

setup(
    name="eqssl_speech",
    version=read_version(),
    description="Self-supervised speech pre-training with equilibrium constraints, on fairseq2",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="eqssl_speech contributors",
    license="MIT",
    packages=find_packages(include=["eqssl_speech", "eqssl_speech.*"]),
    package_data={
        "eqssl_speech": ["py.typed"],
        "": ["*.tsv", "*.json", "*.yaml", "*.txt", "*.jinja"],
    },
    zip_safe=False,
    python_requires=">=3.10,<3.13",
    install_requires=[
        # fairseq2's native half pins torch==2.9.1, and torchaudio has to follow torch.
        "fairseq2~=0.8.1",
        "torchaudio==2.9.*",
        "soundfile>=0.12",
        "numpy>=1.24",
        "sentencepiece>=0.2",
        "rich~=14.2",
        "matplotlib>=3.8",
        "jinja2>=3.1",
        "rapidfuzz>=3.9.7,<4",
        "filelock>=3.12",
    ],
    extras_require={
        "export": EXPORT,
        "labels": LABELS,
        "lm": LM,
        "test": TEST,
        "check": [*TEST, *CHECK],
        "bench": BENCH,
    },
    entry_points={
        "console_scripts": ["eqssl = eqssl_speech.cli:main"],
        "fairseq2.extension": ["eqssl_speech = eqssl_speech:setup_fairseq2_extension"],
    },
    classifiers=[
        "Intended Audience :: Science/Research",
        "License :: OSI Approved :: MIT License",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Multimedia :: Sound/Audio :: Speech",
        "Typing :: Typed",
    ],
)
