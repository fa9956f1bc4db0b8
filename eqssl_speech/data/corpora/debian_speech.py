"""debian_speech: hours of speech with text in many languages, made of the packages of Debian's archive."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from difflib import get_close_matches
from pathlib import Path
from typing import Final

from eqssl_speech.data.corpora.clip import Clip, ffmpeg_available
from eqssl_speech.data.corpora.convert import convert_all
from eqssl_speech.data.corpora.debian_packages import SPEECH_PACKAGES, SpeechPackage
from eqssl_speech.data.corpora.packages import fetch_package, package_fields, read_notices
from eqssl_speech.data.corpora.report import PrepareReport, ProgressCallback, SourceSummary
from eqssl_speech.data.corpora.source_job import SourceJob, drop_duplicates
from eqssl_speech.data.corpora.text import ClipFilter
from eqssl_speech.data.corpora.workspace import (
    WORK_DIRECTORY,
    remove_scratch,
    require_own_directory,
)
from eqssl_speech.data.corpus import DataSource, write_sources
from eqssl_speech.data.manifest import replace_text
from eqssl_speech.error import InputError

_FORMAT: Final = "debian_speech 1"


def prepare_debian_speech(
    out: Path,
    *,
    cache: Path | None = None,
    num_workers: int = 2,
    packages: Sequence[str] | None = None,
    progress: ProgressCallback | None = None,
) -> PrepareReport:
    """Download, unpack, decode, resample, filter and split the corpus, and write its manifests.

    Safe to interrupt: started again it goes on, and ends with the same bytes. A finished corpus is left as it is.

    :param out: directory of the corpus.
    :param cache: where packages are kept, about 1.7 GB for all; by default inside ``out``.
    :param num_workers: processes that decode; 0 works in this process.
    :param packages: names of the packages to use; ``None`` for all.
    :param progress: called as the work goes on.
    :returns: minutes per source, and what was left out and why.
    :raises InputError: where a package is unknown or cannot be fetched, or the machine is not a Debian one.
    """
    chosen = select_packages(packages)
    report = PrepareReport(out)
    if not ffmpeg_available():
        chosen = _leave_out_undecodable(chosen, report)
    cache = cache or out / WORK_DIRECTORY
    fetch_all(chosen, cache, progress)
    jobs = [
        SourceJob(out, package, name, clips, _fingerprint(package, cache))
        for package in chosen
        for name, clips in list_sources(package, cache).items()
    ]
    require_own_directory(out, {job.name for job in jobs})
    _convert([(job, name) for job in jobs for name in job.unknown()], num_workers, progress)
    drop_duplicates(jobs)
    kept = [job for job in jobs if job.summarize(report)]
    _convert([(job, name) for job in kept for name in job.missing()], num_workers, progress)
    for job in jobs:
        job.finish(keep=job in kept)
    remove_scratch(out / WORK_DIRECTORY / "journals")
    for package in chosen:
        _write_notices(out, package, cache)
    write_sources(out, [_describe(summary, out) for summary in report.sources])
    return report


def select_packages(names: Sequence[str] | None) -> list[SpeechPackage]:
    """Choose among the packages of the corpus.

    :param names: names of packages; ``None`` for all.
    :raises InputError: where a name is unknown.
    """
    known = {package.name: package for package in SPEECH_PACKAGES}
    for name in names or ():
        if name not in known:
            close = get_close_matches(name, known, n=1)
            hint = f"did you mean `{close[0]}`" if close else f"known are {', '.join(known)}"
            raise InputError(f"`{name}` is no package of debian-speech: {hint}.")
    return [package for package in SPEECH_PACKAGES if names is None or package.name in names]


def fetch_all(
    packages: Sequence[SpeechPackage], cache: Path, progress: ProgressCallback | None
) -> None:
    """Download and unpack packages and what they need, a few at a time.

    :raises InputError: where one cannot be fetched.
    """
    names = list(dict.fromkeys(name for p in packages for name in (p.name, *p.needs)))
    with ThreadPoolExecutor(4) as pool:
        for number, _ in enumerate(pool.map(lambda name: fetch_package(name, cache), names), 1):
            if progress is not None:
                progress("packages", number, len(names))


def list_sources(package: SpeechPackage, cache: Path) -> dict[str, list[Clip]]:
    """List the recordings of a fetched package, by source.

    :raises InputError: where two recordings of a source have one name.
    """
    sources: dict[str, list[Clip]] = {}
    for clip in sorted(package.list_clips(lambda name: fetch_package(name, cache))):
        clips = sources.setdefault(clip.source, [])
        if clips and clips[-1].clip_id == clip.clip_id:
            raise InputError(
                f"{clip.path}: the source `{clip.source}` has two recordings named `{clip.clip_id}`; "
                f"leave out the package `{package.name}`."
            )
        clips.append(clip)
    return sources


def _leave_out_undecodable(
    packages: list[SpeechPackage], report: PrepareReport
) -> list[SpeechPackage]:
    for package in packages:
        if package.needs_ffmpeg:
            report.left_out_sources[package.name] = (
                "its recordings are G.722 or GSM, which need `ffmpeg` on the search path"
            )
    return [package for package in packages if not package.needs_ffmpeg]


def _fingerprint(package: SpeechPackage, cache: Path) -> str:
    versions = [package_fields(name, cache)["Version"] for name in (package.name, *package.needs)]
    return hashlib.sha256(repr((_FORMAT, ClipFilter(), versions)).encode()).hexdigest()


def _convert(
    todo: Sequence[tuple[SourceJob, str]], num_workers: int, progress: ProgressCallback | None
) -> None:
    tasks = [job.task(name) for job, name in todo]
    outcomes = zip(todo, convert_all(tasks, num_workers), strict=True)
    for number, ((job, _), outcome) in enumerate(outcomes, 1):
        job.record(outcome)
        if progress is not None:
            progress("recordings", number, len(todo))


def _write_notices(out: Path, package: SpeechPackage, cache: Path) -> None:
    fields = package_fields(package.name, cache)
    head = (
        f"Debian package:  {package.name} {fields['Version']}\n"
        f"Source package:  {fields['Source']}\n\n"
        "This is a modified version: the recordings of the package were resampled to 16 kHz mono, compressed as\n"
        "FLAC and filtered; their text, and phone labels where it has them, were brought into other formats.\n"
        "The notices of the package follow.\n"
    )
    texts = read_notices(package.name, fetch_package(package.name, cache))
    body = "".join(f"\n{'=' * 20} {name} {'=' * 20}\n\n{text}" for name, text in texts)
    (out / "NOTICES").mkdir(parents=True, exist_ok=True)
    replace_text(out / "NOTICES" / f"{package.name}.txt", head + body)


def _describe(summary: SourceSummary, out: Path) -> DataSource:
    directory = out / summary.name
    return DataSource(summary.name, summary.language, summary.domain, summary.licence, directory)
