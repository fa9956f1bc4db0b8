"""Anyone's recordings, one folder per source, as a corpus."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from eqssl_speech.data.corpora.folder_job import FolderJob, FolderOptions
from eqssl_speech.data.corpora.report import PrepareReport, ProgressCallback
from eqssl_speech.data.corpora.workspace import require_own_directory
from eqssl_speech.data.corpus import SOURCES_FILE, DataSource, load_corpus, write_sources
from eqssl_speech.error import InputError

_SOURCE_NAME: Final = re.compile(r"[A-Za-z0-9][-_A-Za-z0-9]*")


def prepare_folder(
    directory: Path,
    out: Path,
    *,
    valid_share: float = 0.05,
    test_share: float = 0.0,
    min_duration_s: float = 0.6,
    resample: bool = False,
    downmix: bool = False,
    num_workers: int = 2,
    progress: ProgressCallback | None = None,
) -> PrepareReport:
    """Make a corpus of recordings that lie in one folder per source.

    Recordings that are 16 kHz mono stay where they are; others are left out or, where asked for, converted to FLAC in
    the corpus. Text is taken from ``X.txt`` beside ``X.wav`` or from a ``.tsv`` of the source's folder with lines
    ``path<TAB>text``. A ``sources.tsv`` in ``directory`` gives languages, domains and licences.

    :param directory: directory with one folder per source.
    :param out: directory of the corpus; outside of ``directory``.
    :param valid_share: share of the recordings for validation, in [0, 1).
    :param test_share: share of the recordings for testing, in [0, 1).
    :param min_duration_s: shortest recording, in seconds.
    :param resample: whether recordings of another sample rate are converted.
    :param downmix: whether recordings of several channels are converted.
    :param num_workers: threads that read; 0 reads in this one.
    :param progress: called as the work goes on.
    :returns: minutes per source, and what was left out and why; every bad file is named.
    :raises InputError: where there is nothing to use, or an argument cannot be used.
    """
    options = FolderOptions(
        valid_share=valid_share,
        test_share=test_share,
        min_duration_s=min_duration_s,
        resample=resample,
        downmix=downmix,
    )
    _check_arguments(directory, out, options)
    described = _list_folders(directory)
    require_own_directory(out, {source.name for source in described})
    report, seen = PrepareReport(out), set[str]()
    kept = []
    for source in described:
        job = FolderJob(source, out, options)
        job.read(num_workers, progress)
        job.drop_duplicates(seen)
        if job.write(report):
            kept.append(source)
    if not kept:
        raise InputError(
            f"{directory}: no source has a usable recording ({_explain(report)}); recordings must be "
            "16 kHz mono, or ask for resampling and down-mixing."
        )
    write_sources(out, kept)
    return report


def _explain(report: PrepareReport) -> str:
    reasons = list(dict.fromkeys(report.left_out_sources.values()))
    return "; ".join(reasons[:3])


def _check_arguments(directory: Path, out: Path, options: FolderOptions) -> None:
    if not directory.is_dir():
        raise InputError(
            f"{directory}: there is no such directory; give the one of your recordings."
        )
    if directory.resolve() in (out.resolve(), *out.resolve().parents):
        raise InputError(
            f"{out}: lies inside {directory}; give a directory outside of the recordings."
        )
    for name in ("valid_share", "test_share"):
        share = getattr(options, name)
        if not 0 <= share < 1:
            raise InputError(
                f"`{name}` must be at least 0 and less than 1, but is {share} instead."
            )
    if options.valid_share + options.test_share >= 1:
        raise InputError("`valid_share` and `test_share` must leave something to train on.")


def _list_folders(directory: Path) -> list[DataSource]:
    if (directory / SOURCES_FILE).is_file():
        return list(load_corpus(directory).sources)
    folders = sorted(f for f in directory.iterdir() if f.is_dir() and not f.name.startswith("."))
    for folder in folders:
        if _SOURCE_NAME.fullmatch(folder.name) is None:
            raise InputError(
                f"{folder}: the name of a source may only hold letters A to Z, digits, `-` and `_`, "
                "and must begin with a letter or digit; rename the folder."
            )
    if not folders:
        raise InputError(f"{directory}: has no folders; put the recordings of each source in one.")
    return [DataSource(f.name, "und", "unknown", "unknown", f) for f in folders]
