"""What is to be recognised, and its reference texts; what cannot be evaluated is left out by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, final

from eqssl_speech.data.audio import AudioFormat
from eqssl_speech.data.check import check_split
from eqssl_speech.data.corpus import Corpus, DataSource, load_corpus, select_sources
from eqssl_speech.data.manifest import FIRST_ENTRY_LINE, read_manifest, read_transcripts
from eqssl_speech.error import InputError
from eqssl_speech.tasks.transcribe.planning import AudioItem
from eqssl_speech.text.normalization import TextRefusedError
from eqssl_speech.text.tokenizer import CtcTokenizer

if TYPE_CHECKING:
    from eqssl_speech.tasks.recognizer import Recognizer

NO_TEXT: Final = "no text"
"""Why an utterance is left out whose reference is empty, as found or once normalised."""

REFUSED: Final = "refused text"
"""Why an utterance is left out whose reference the normalisation rules refuse."""


@final
@dataclass(frozen=True)
class Reference:
    """An utterance that is evaluated."""

    id: str
    """Its path as the manifest has it, with ``:offset:length`` if it is a part; unique in its source."""

    source: str
    """The name of its source."""

    text: str
    """What was said, normalised; never empty."""

    item: AudioItem
    """Its audio."""


@final
@dataclass(frozen=True)
class LeftOut:
    """An utterance that is not evaluated."""

    id: str
    source: str
    reason: str
    """The kind of fault, by which they are counted."""

    message: str
    """The fault in words, beginning with the file."""


@final
@dataclass(frozen=True)
class EvaluationSet:
    """What is evaluated."""

    corpus: Path
    """The directory of the corpus."""

    split: str
    """The split, such as ``test``."""

    sources: tuple[DataSource, ...]
    """The sources that have an utterance to evaluate, in the order of the corpus; at least one."""

    references: tuple[Reference, ...]
    """The utterances, source by source in the order of the manifests."""

    left_out: tuple[LeftOut, ...]
    """The utterances that are not evaluated."""

    left_out_sources: dict[str, str]
    """The sources without an utterance to evaluate, and why."""


def load_evaluation_set(
    directory: Path,
    split: str,
    names: Sequence[str] | None,
    recognizer: Recognizer,
    *,
    num_workers: int = 2,
    on_progress: Callable[[int], None] | None = None,
) -> EvaluationSet:
    """Read the manifests, texts and audio headers of a split.

    :param directory: The corpus.
    :param split: The split.
    :param names: The sources, each of which must have the split with text; ``None`` for all that have.
    :param recognizer: The model, by whose rules the texts are normalised.
    :param num_workers: How many files are read at once.
    :param on_progress: Called with the number of utterances looked at since its last call.
    :returns: What is evaluated, and what is not.
    :raises InputError: If a language is unknown to the model, or nothing is left to evaluate.
    """
    corpus = select_sources(load_corpus(directory), names)

    _require_known_languages(corpus, recognizer.tokenizer)

    sources: list[DataSource] = []
    references: list[Reference] = []
    left_out: list[LeftOut] = []
    left_out_sources: dict[str, str] = {}

    for source in corpus.sources:
        lack = _find_lack(source, split)
        if lack is not None:
            if names is not None:
                raise InputError(f"{lack}; make it, or leave the source `{source.name}` out.")
            left_out_sources[source.name] = lack
            continue

        good, bad = _read_source(source, split, recognizer, num_workers, on_progress)
        left_out += bad

        if good:
            sources.append(source)
            references += good
        else:
            left_out_sources[source.name] = f"none of its {len(bad)} utterances can be evaluated"

    if not references:
        raise InputError(_explain_nothing(corpus, split, left_out, left_out_sources))

    return EvaluationSet(
        directory, split, tuple(sources), tuple(references), tuple(left_out), left_out_sources
    )


def _require_known_languages(corpus: Corpus, tokenizer: CtcTokenizer) -> None:
    unknown = [s for s in corpus.sources if not tokenizer.knows(s.language)]
    if not unknown:
        return

    languages = ", ".join(f"`{name}`" for name in dict.fromkeys(s.language for s in unknown))
    known = [s.name for s in corpus.sources if s not in unknown]
    choice = (
        "take the others with " + " ".join(f"`--source {name}`" for name in known)
        if known
        else "take another corpus, or correct the languages in sources.tsv"
    )

    raise InputError(
        f"{corpus.directory}: the model does not know the language of "
        f"{', '.join(f'`{s.name}`' for s in unknown)}, which is {languages}; the known ones are "
        f"{', '.join(f'`{name}`' for name in tokenizer.languages)}: {choice}."
    )


def _find_lack(source: DataSource, split: str) -> str | None:
    manifest_file = source.manifest_file(split)

    for file, what in ((manifest_file, "split"), (manifest_file.with_suffix(".wrd"), "text")):
        if not file.exists():
            return f"{file}: the source has no such {what}"

    return None


def _read_source(
    source: DataSource,
    split: str,
    recognizer: Recognizer,
    num_workers: int,
    on_progress: Callable[[int], None] | None,
) -> tuple[list[Reference], list[LeftOut]]:
    text_file = source.manifest_file(split).with_suffix(".wrd")

    # Before the audio, which takes longer.
    texts = read_transcripts(text_file, read_manifest(source.manifest_file(split)))

    fmt = AudioFormat(sample_rate=recognizer.sample_rate, resample=True, downmix=True)

    manifest, report = check_split(
        source,
        split,
        fmt,
        min_duration_s=recognizer.receptive_field_samples / recognizer.sample_rate,
        full=False,
        num_workers=num_workers,
        on_progress=on_progress,
    )

    references: list[Reference] = []
    left_out = [
        LeftOut(str(manifest.entries[b.line - FIRST_ENTRY_LINE]), source.name, b.reason, b.message)
        for b in report.bad
    ]

    for index, num_samples in zip(report.good, report.num_samples, strict=True):
        entry = manifest.entries[index]
        where = f"{text_file}:{index + 1}"

        text = _normalize(texts[index], source.language, recognizer.tokenizer, where)
        if isinstance(text, str):
            item = AudioItem(manifest.locate(entry), entry, num_samples)
            references.append(Reference(str(entry), source.name, text, item))
        else:
            left_out.append(LeftOut(str(entry), source.name, *text))

    return references, left_out


def _normalize(
    text: str, language: str, tokenizer: CtcTokenizer, where: str
) -> str | tuple[str, str]:
    try:
        normalized = tokenizer.normalize(text, language)
    except TextRefusedError as ex:
        return REFUSED, f"{where}: the text {ex}"

    return normalized or (NO_TEXT, f"{where}: the text is empty once normalised")


def _explain_nothing(
    corpus: Corpus, split: str, left_out: Sequence[LeftOut], left_out_sources: dict[str, str]
) -> str:
    if left_out:
        return (
            f"{corpus.directory}: no utterance of the split `{split}` can be evaluated; the first of {len(left_out)}: "
            f"{left_out[0].message}. See `eqssl check`."
        )

    splits = sorted({file.stem for s in corpus.sources for file in s.directory.glob("*.wrd")})
    known = ", ".join(f"`{name}`" for name in splits) or "none"

    return (
        f"{corpus.directory}: no source has the split `{split}` with text ({next(iter(left_out_sources.values()))}); "
        f"the splits with text are {known}, so give one with `--split`."
    )
