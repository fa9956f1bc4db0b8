"""What all training recipes do with recordings, and with the mistakes of a user."""

from __future__ import annotations

from fairseq2.logging import log

from eqssl_speech.data.check import SourceReport, check_split, require_usable
from eqssl_speech.data.corpus import DataSource
from eqssl_speech.data.loading import LoadFailure
from eqssl_speech.data.manifest import Manifest
from eqssl_speech.error import InputError
from eqssl_speech.tasks.repetition import MAX_NUM_NAMED, is_worth_a_line
from eqssl_speech.tasks.sections import AudioSourcesSection


def check_recordings(
    source: DataSource, split: str, section: AudioSourcesSection
) -> tuple[Manifest, SourceReport]:
    """Look at the header of every recording of one split of one source.

    :param source: The data source.
    :param split: The split.
    :param section: What a recording must be like.
    :returns: The manifest, and which of its recordings are good.
    :raises InputError: If the manifest cannot be used, or too many recordings are bad.
    """
    manifest, report = check_split(
        source,
        split,
        section.audio_format,
        min_duration_s=section.min_audio_s,
        full=False,
        num_workers=max(4, section.num_workers),
        on_progress=None,
    )

    require_usable(report, section.max_bad_share)

    return manifest, report


def warn_of_failure(failure: LoadFailure) -> None:
    """Log a recording that could not be read during the run; of many, their number now and then."""
    if not is_worth_a_line(failure.num_bad):
        return

    log.warning("Source {}: a recording is left out from now on: {}", failure.source_name, failure.message)  # fmt: skip

    if failure.num_bad > MAX_NUM_NAMED:
        log.warning(
            "Source {}: {} recordings are left out by now, not all of them named here; `eqssl check` names them.",
            failure.source_name,
            failure.num_bad,
        )


def handle_input_error(ex: InputError) -> int:
    """Log a user's mistake; return the exit status."""
    log.error(str(ex))

    return 2
