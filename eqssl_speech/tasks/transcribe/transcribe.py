"""Recognises recordings, one result each, in their order; nothing is printed or written here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from eqssl_speech.data.audio import AudioError, AudioFormat, check_header, probe_audio
from eqssl_speech.data.manifest import ManifestEntry
from eqssl_speech.tasks.transcribe.decoder import Search
from eqssl_speech.tasks.transcribe.emission import EmissionPart, Emitter, ReadFailure
from eqssl_speech.tasks.transcribe.inputs import InputFile
from eqssl_speech.tasks.transcribe.planning import AudioItem, EmissionOptions, plan_batches
from eqssl_speech.tasks.transcribe.result import HypothesisJoiner, Transcript

if TYPE_CHECKING:
    from eqssl_speech.tasks.recognizer import Recognizer


@final
@dataclass(frozen=True)
class Failure:
    """A recording that could not be transcribed."""

    file: InputFile
    """The recording."""

    error: AudioError
    """What is wrong with it."""


@final
@dataclass(frozen=True)
class Recordings:
    """The recordings that were asked for, once their headers are read."""

    files: tuple[InputFile, ...]
    """All of them, in their order."""

    items: tuple[AudioItem, ...]
    """Those that can be read, as far as their headers tell."""

    indices: tuple[int, ...]
    """Where each of those is in :attr:`files`."""

    errors: dict[int, AudioError]
    """What is wrong with the others, by their index in :attr:`files`."""

    duration_s: float
    """The length of those that can be read together, in seconds."""


def open_recordings(
    files: Sequence[InputFile], recognizer: Recognizer, num_readers: int
) -> Recordings:
    """Read the headers of recordings.

    :param files: The recordings.
    :param recognizer: The model, which wants a sample rate and a least length.
    :param num_readers: How many files are read at once.
    :returns: What can be transcribed, and what cannot.
    """
    fmt = AudioFormat(sample_rate=recognizer.sample_rate, resample=True, downmix=True)

    def probe(file: InputFile) -> AudioItem | AudioError:
        try:
            entry = ManifestEntry(str(file.path), probe_audio(file.path).num_samples)

            info = check_header(file.path, entry, fmt, recognizer.receptive_field_samples)
        except AudioError as ex:
            return ex
        except UnicodeEncodeError:
            # What libsndfile's binding makes of it.
            return AudioError(file.path, "unreadable", "has a name that is not UTF-8; rename it")

        length = fmt.convert_length(info.num_samples, info.sample_rate)

        return AudioItem(file.path, entry, length)

    with ThreadPoolExecutor(max(1, num_readers), thread_name_prefix="eqssl-probe") as pool:
        results = list(pool.map(probe, files))

    good = [(i, item) for i, item in enumerate(results) if isinstance(item, AudioItem)]

    return Recordings(
        files=tuple(files),
        items=tuple(item for _, item in good),
        indices=tuple(i for i, _ in good),
        errors={i: error for i, error in enumerate(results) if isinstance(error, AudioError)},
        duration_s=sum(item.num_samples for _, item in good) / recognizer.sample_rate,
    )


def transcribe(
    recordings: Recordings,
    recognizer: Recognizer,
    search: Search,
    options: EmissionOptions,
    *,
    on_progress: Callable[[float], None] | None = None,
) -> Iterator[Transcript | Failure]:
    """Recognise recordings.

    :param recordings: The recordings.
    :param recognizer: The model.
    :param search: The search.
    :param options: How much is given to the model at a time.
    :param on_progress: Called with the seconds of audio that were dealt with since its last call.
    :returns: What was recognised in each recording, or why nothing could be, in their order, as soon as it is known.
    :raises InputError: If the model cannot be used, or an option is out of its range.
    """
    units = plan_batches([item.num_samples for item in recordings.items], recognizer, options)

    batches = (batch for unit in units for batch in unit)

    job = _Job(recordings, recognizer, search, on_progress or (lambda _: None))

    for event in Emitter(recognizer, recordings.items, options).emit(batches):
        result = job.take(event)

        if result is not None:
            yield from job.list_errors(before=recordings.indices[event.item])
            yield result

    yield from job.list_errors(before=len(recordings.files))


@final
class _Job:
    def __init__(
        self,
        recordings: Recordings,
        recognizer: Recognizer,
        search: Search,
        on_progress: Callable[[float], None],
    ) -> None:
        self._recordings = recordings
        self._recognizer = recognizer
        self._search = search
        self._on_progress = on_progress
        self._joiners: dict[int, HypothesisJoiner] = {}
        self._done_s: dict[int, float] = {}
        self._num_listed = 0

    def take(self, event: EmissionPart | ReadFailure) -> Transcript | Failure | None:
        item = self._recordings.items[event.item]
        file = self._recordings.files[self._recordings.indices[event.item]]
        duration_s = item.num_samples / self._recognizer.sample_rate

        if isinstance(event, ReadFailure):
            self._joiners.pop(event.item, None)
            self._advance(event.item, duration_s)

            return Failure(file, event.error)

        joiner = self._joiners.setdefault(
            event.item, HypothesisJoiner(self._search, self._recognizer.tokenizer)
        )
        joiner.add(event)

        if not event.is_last:
            num_frames = event.start + event.log_probs.size(0)
            self._advance(event.item, num_frames * self._recognizer.frame_shift_s)

            return None

        del self._joiners[event.item]
        self._advance(event.item, duration_s)

        words = tuple(joiner.list_words(self._recognizer))

        return Transcript(file, duration_s, words)

    def list_errors(self, *, before: int) -> Iterator[Failure]:
        while self._num_listed < before:
            error = self._recordings.errors.get(self._num_listed)
            if error is not None:
                yield Failure(self._recordings.files[self._num_listed], error)

            self._num_listed += 1

    def _advance(self, item: int, until_s: float) -> None:
        # What of a recording was done is told once: `until_s` is counted from its start.
        self._on_progress(until_s - self._done_s.get(item, 0.0))

        self._done_s[item] = until_s
