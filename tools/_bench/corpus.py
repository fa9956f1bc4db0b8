"""The corpus of tools/bench_data.py: the sample of the repository in one audio format."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import Final

import soundfile

from eqssl_speech.data.corpus import load_corpus, write_sources
from eqssl_speech.data.manifest import Manifest, ManifestEntry, read_manifest, write_manifest

SAMPLE: Final = Path(__file__).parents[2] / "recipes" / "quickstart" / "corpus"
"""Real speech, 26 minutes in 5 sources, Ogg Vorbis."""

SUBTYPES: Final = {"flac": "PCM_16", "ogg": "VORBIS", "wav": "PCM_16"}
"""The formats, and what libsndfile calls the coding of their samples."""


def make_corpus(directory: Path, audio_format: str, num_sources: int) -> Path:
    """Write the sample in one format, unless it is there already.

    Where more sources are asked for than the sample has, they take turns; each has files of its own.

    :param directory: Where corpora are kept.
    :param audio_format: A key of ``SUBTYPES``.
    :param num_sources: At least 1.
    :returns: The directory of the corpus.
    """
    corpus = directory / f"{audio_format}-{num_sources}"
    if corpus.exists():
        return corpus

    # In one piece: an interrupted run leaves nothing that the next one would take for a corpus.
    partial = corpus.with_name(f".{corpus.name}.{os.getpid()}")
    sources = []

    for number, source in enumerate(islice(cycle(load_corpus(SAMPLE).sources), num_sources), 1):
        folder = partial / f"{number}-{source.name}"
        (folder / "audio").mkdir(parents=True)

        for split in ("train", "valid"):
            entries = list(
                _convert(read_manifest(source.manifest_file(split)), folder, audio_format)
            )

            write_manifest(folder / f"{split}.tsv", ".", entries)

        sources.append(replace(source, name=folder.name, directory=folder))

    write_sources(partial, sources)

    return partial.rename(corpus)


def drop_from_cache(corpus: Path) -> None:
    """Ask the system to forget what it has cached of a corpus's files; only their content, not the directories."""
    for file in corpus.glob("*/audio/*"):
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)  # What is not yet written cannot be dropped.
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def _convert(manifest: Manifest, folder: Path, audio_format: str) -> Iterator[ManifestEntry]:
    for entry in manifest.entries:
        original = manifest.locate(entry)
        name = Path("audio") / f"{original.stem}.{audio_format}"

        if original.suffix == name.suffix:
            # As it is: a second lossy encoding would be another signal.
            shutil.copy(original, folder / name)
        else:
            samples, sample_rate = soundfile.read(original, dtype="int16")
            soundfile.write(folder / name, samples, sample_rate, SUBTYPES[audio_format])

        yield replace(entry, path=str(name))
