"""Make ``recipes/quickstart/corpus``: the speech sample that ships with the repository.

    python tools/make_quickstart_corpus.py recipes/quickstart/corpus --cache DIRECTORY
    python tools/make_quickstart_corpus.py recipes/quickstart/corpus --cache DIRECTORY --phones-only

Needs a Debian or Ubuntu machine (apt-get and dpkg-deb; no root) and about 0.4 GB in the cache.
The same packages give the same bytes with the same libsndfile, but for one recording: ``es-drascula/audio/273.ogg`` was
chosen by the hash of its text as it was before ``º`` was read as a space, and would not be chosen now. The second
command leaves recordings, manifests and text as they are, and writes the phone labels of what the manifests name.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import soundfile

from eqssl_speech.data.corpora.clip import SAMPLE_RATE, Clip, load_clip
from eqssl_speech.data.corpora.drascula import character_group, list_drascula
from eqssl_speech.data.corpora.festvox import list_festvox
from eqssl_speech.data.corpora.packages import fetch_package, package_fields, read_notices
from eqssl_speech.data.corpora.splits import assign_split, audio_digest, content_key
from eqssl_speech.data.corpora.text import ClipFilter, normalize_text
from eqssl_speech.data.corpus import DataSource, write_sources
from eqssl_speech.data.manifest import (
    ManifestEntry,
    read_manifest,
    replace_text,
    write_manifest,
)
from eqssl_speech.data.phones import phones_beside, write_phones

#: Seconds of audio of a source, by split.
BUDGET_S: Final = {"train": 230.0, "valid": 76.0}

#: Share of the texts that are for validation. A clip of train is never one of valid or test of the whole debian_speech.
VALID_SHARE: Final = 0.3

#: libsndfile's compression of Vorbis: 0 is best quality, 1 smallest.
COMPRESSION: Final = 0.4

FILTER: Final = ClipFilter(min_duration_s=2.0, max_duration_s=12.0)

DRASCULA_LICENCE: Final = "Drascula-License (BSD-like, modified versions marked)"


#: Lists the clips of a source, given a function that fetches a package and returns its directory.
ListClips = Callable[[Callable[[str], Path]], list[Clip]]


@dataclass(frozen=True)
class SampleSource:
    """One source of the sample: the clips of a package, or those of some of its speakers."""

    name: str
    language: str
    domain: str
    licence: str
    package: str
    list_clips: ListClips
    has_phones: bool = False


def _festvox(fetch: Callable[[str], Path]) -> list[Clip]:
    return list_festvox(fetch("festvox-ru"))


def _drascula(package: str, language: str, hero: bool | None = None) -> ListClips:
    def list_clips(fetch: Callable[[str], Path]) -> list[Clip]:
        clips = list_drascula(fetch(package), language, fetch("drascula"))
        return [c for c in clips if hero is None or (character_group(c.clip_id) == "") == hero]

    return list_clips


_ACTED: Final = "acted dialogue"

SOURCES: Final = tuple(
    SampleSource(*row)
    for row in (
        (
            "ru-festvox",
            "ru",
            "studio reading",
            "BSD-like (festvox-ru)",
            "festvox-ru",
            _festvox,
            True,
        ),
        (
            "en-drascula-hero",
            "en",
            _ACTED,
            DRASCULA_LICENCE,
            "drascula",
            _drascula("drascula", "en", True),
        ),
        (
            "en-drascula-cast",
            "en",
            _ACTED,
            DRASCULA_LICENCE,
            "drascula",
            _drascula("drascula", "en", False),
        ),
        (
            "es-drascula",
            "es",
            _ACTED,
            DRASCULA_LICENCE,
            "drascula-spanish",
            _drascula("drascula-spanish", "es"),
        ),
        (
            "it-drascula",
            "it",
            _ACTED,
            DRASCULA_LICENCE,
            "drascula-italian",
            _drascula("drascula-italian", "it"),
        ),
    )
)


@dataclass(frozen=True)
class Utterance:
    """A clip that passed the filters."""

    key: str
    clip_id: str
    text: str
    samples: npt.NDArray[np.float32]

    @property
    def duration_s(self) -> float:
        """Its length in seconds."""
        return len(self.samples) / SAMPLE_RATE


def choose_utterances(clips: list[Clip], seen: set[str]) -> dict[str, list[Utterance]]:
    """Choose the utterances of a source: in the order of their content hash, until the budget is met.

    :param clips: the recordings of the source.
    :param seen: digests of the audio used so far, in any source; extended.
    :returns: utterances by split, sorted by name.
    """
    chosen: dict[str, list[Utterance]] = {split: [] for split in BUDGET_S}
    for key, clip in sorted(
        (content_key(normalize_text(c.text or ""), c.clip_id), c) for c in clips
    ):
        split = assign_split(key, valid_share=VALID_SHARE, test_share=0.0)
        if sum(u.duration_s for u in chosen[split]) >= BUDGET_S[split] or not normalize_text(
            clip.text or ""
        ):
            continue
        samples = load_clip(clip)
        digest = audio_digest(samples)
        if digest in seen or FILTER.find_fault(len(samples) / SAMPLE_RATE, clip.text) is not None:
            continue
        seen.add(digest)
        chosen[split].append(Utterance(key, clip.clip_id, normalize_text(clip.text or ""), samples))
    return {split: sorted(u, key=lambda x: x.clip_id) for split, u in chosen.items()}


def write_source(directory: Path, chosen: dict[str, list[Utterance]]) -> None:
    """Write the audio, the manifests and the text of a source.

    :param directory: folder of the source.
    :param chosen: utterances by split.
    """
    (directory / "audio").mkdir(parents=True)
    for split, utterances in chosen.items():
        entries = []
        for utterance in utterances:
            name = name_file(utterance.clip_id)
            write_vorbis(directory / name, utterance.samples)
            entries.append(ManifestEntry(name, len(utterance.samples)))
        write_manifest(directory / f"{split}.tsv", ".", entries)
        replace_text(directory / f"{split}.wrd", "".join(f"{u.text}\n" for u in utterances))


def name_file(clip_id: str) -> str:
    """Name the file of a clip, as manifests do."""
    return f"audio/{clip_id.lower()}.ogg"


def write_source_phones(directory: Path, clips: list[Clip]) -> None:
    """Write the phone labels of what the manifests of a source name.

    :param directory: folder of the source, with its manifests. Clips are neither trimmed nor cut, so that the times of
        the package are those of the files.
    :param clips: the recordings of the source, with their phones.
    """
    phones = {name_file(clip.clip_id): clip.phones for clip in clips}
    for split in BUDGET_S:
        manifest = read_manifest(directory / f"{split}.tsv")
        write_phones(
            phones_beside(manifest.file), manifest, [phones[e.path] for e in manifest.entries]
        )


def write_vorbis(file: Path, samples: npt.NDArray[np.float32]) -> None:
    """Write Ogg Vorbis whose bytes depend on the samples alone.

    :param file: the file to write.
    :param samples: mono, 16 kHz, *Shape* ``(num_samples,)``.
    """
    with soundfile.SoundFile(
        file, "w", SAMPLE_RATE, 1, format="OGG", subtype="VORBIS", compression_level=COMPRESSION
    ) as stream:
        stream.write(samples)
    file.write_bytes(fix_ogg_serial(file.read_bytes()))
    if soundfile.info(file).frames != len(samples) or len(soundfile.read(file)[0]) != len(samples):
        raise RuntimeError(f"{file} does not read back with {len(samples)} samples.")


def fix_ogg_serial(content: bytes, serial: int = 1) -> bytes:
    """Give every page of an Ogg stream one serial number (the encoder draws it at random) and its checksum.

    See RFC 3533, section 6: serial number at byte 14 of a page, checksum at 22, number of segments at 26.
    """
    out, start = bytearray(content), 0
    while start < len(out):
        num_segments = out[start + 26]
        header_end = start + 27 + num_segments
        end = header_end + sum(out[start + 27 : header_end])
        out[start + 14 : start + 18] = serial.to_bytes(4, "little")
        out[start + 22 : start + 26] = bytes(4)
        out[start + 22 : start + 26] = _ogg_checksum(out[start:end]).to_bytes(4, "little")
        start = end
    return bytes(out)


def _ogg_checksum_table() -> list[int]:
    table = []
    for byte in range(256):
        value = byte << 24
        for _ in range(8):
            value = (value << 1) ^ (0x04C11DB7 if value & 0x80000000 else 0)
        table.append(value & 0xFFFFFFFF)
    return table


_TABLE: Final = _ogg_checksum_table()


def _ogg_checksum(page: bytes | bytearray) -> int:
    checksum = 0
    for byte in page:
        checksum = ((checksum << 8) & 0xFFFFFFFF) ^ _TABLE[(checksum >> 24) ^ byte]
    return checksum


def write_notices(out: Path, package: str, cache: Path) -> None:
    """Write what must accompany the recordings of a package: where they come from, what was changed, the licence.

    :param out: directory of the sample.
    :param package: name of the binary package.
    :param cache: where the package was fetched to.
    """
    fields = package_fields(package, cache)
    sources = [source for source in SOURCES if source.package == package]
    phones = "Their phone labels were rewritten as NIST's CTM.\n" if sources[0].has_phones else ""
    names = ", ".join(source.name for source in sources)
    head = (
        f"Sources:         {names}\n"
        f"Debian package:  {package} {fields['Version']}\n"
        f"Source package:  {fields['Source']}\n\n"
        "THIS IS A MODIFIED VERSION. It holds a selection of the package's speech recordings, resampled to\n"
        f"16 kHz mono and compressed as Ogg Vorbis, and their text in lower case without punctuation.\n{phones}"
        "Nothing else of the package is here. The notices of the package follow as they are.\n"
    )
    parts = [head]
    for name, text in read_notices(package, fetch_package(package, cache)):
        parts.append(f"\n{'=' * 20} {name} {'=' * 20}\n\n{text}")
    replace_text(out / "NOTICES" / f"{package}.txt", "".join(parts))


def main() -> None:
    """Make the sample."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "out", type=Path, help="directory of the sample; only its README.md is kept"
    )
    parser.add_argument(
        "--cache", type=Path, help="where packages are kept (default: a temporary directory)"
    )
    parser.add_argument(
        "--phones-only", action="store_true", help="write only the phone labels, and their notices"
    )
    args = parser.parse_args()
    make = make_phones if args.phones_only else make_sample
    with tempfile.TemporaryDirectory() as scratch:
        make(args.out, args.cache or Path(scratch))


def make_sample(out: Path, cache: Path) -> None:
    """Make the sample.

    :param out: directory of the sample.
    :param cache: where packages are fetched to.
    """
    seen: set[str] = set()
    for name in ["NOTICES", *(source.name for source in SOURCES)]:
        shutil.rmtree(out / name, ignore_errors=True)
    (out / "NOTICES").mkdir(parents=True)
    for source in SOURCES:
        clips = source.list_clips(lambda name: fetch_package(name, cache))
        chosen = choose_utterances(clips, seen)
        write_source(out / source.name, chosen)
        if source.has_phones:
            write_source_phones(out / source.name, clips)
        for split, utterances in chosen.items():
            seconds = sum(u.duration_s for u in utterances)
            print(
                f"{source.name:18} {split:6} {len(utterances):4} utterances {seconds / 60:6.2f} min"
            )
    for package in sorted({source.package for source in SOURCES}):
        write_notices(out, package, cache)
    write_sources(
        out, [DataSource(s.name, s.language, s.domain, s.licence, out / s.name) for s in SOURCES]
    )


def make_phones(out: Path, cache: Path) -> None:
    """Write the phone labels of a sample that is there, and the notices of their packages.

    :param out: directory of the sample.
    :param cache: where packages are fetched to.
    """
    for source in SOURCES:
        if source.has_phones:
            clips = source.list_clips(lambda name: fetch_package(name, cache))
            write_source_phones(out / source.name, clips)
            write_notices(out, source.package, cache)


if __name__ == "__main__":
    main()
