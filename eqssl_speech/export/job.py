"""Exports a model and shows that it computes the same, or leaves nothing behind."""

from __future__ import annotations

import fcntl
import glob
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import final

from eqssl_speech.error import InputError
from eqssl_speech.export import Target
from eqssl_speech.export.card import CARD_FILE, read_facts, render_card
from eqssl_speech.export.fairseq2_target import Fairseq2Runner, check_name, write_fairseq2
from eqssl_speech.export.loading import ExportSource
from eqssl_speech.export.model import Runner
from eqssl_speech.export.onnx import SHERPA_FILE, OnnxRunner, SherpaRunner, write_onnx
from eqssl_speech.export.parity import ParityReport, Transcriber, Waveform, compare
from eqssl_speech.export.torchaudio_target import TorchaudioRunner, write_torchaudio
from eqssl_speech.export.transformers_target import TransformersRunner, write_transformers
from eqssl_speech.report.evaluation_facts import EvaluationFacts


@final
@dataclass(frozen=True)
class ExportReport:
    """What came of an export."""

    parity: ParityReport

    left_out: tuple[str, ...]
    """Our names of the tensors that the format has no place for."""


@final
class ParityError(InputError):
    """An exported model computes something else."""


def export_model(
    source: ExportSource,
    target: Target,
    out: Path,
    recordings: Sequence[Waveform],
    *,
    name: str | None = None,
    evaluations: Sequence[EvaluationFacts] = (),
    on_progress: Callable[[str], None] = lambda what: None,
) -> ExportReport:
    """Write a model in another format, in one piece, once it is shown to compute the same.

    :param source: The model.
    :param target: The format.
    :param out: The directory to make; whoever looks sees it whole or not at all.
    :param recordings: What to compare on.
    :param name: What the model is to be called on its card, and the asset with ``fairseq2``; by default as the
        directory.
    :param evaluations: What is known of the model on test sets, for its card.
    :param on_progress: Told what is done next.
    :raises InputError: If the format has no such model, a package is missing, the directory cannot be made, or the
        exported model computes something else (:class:`ParityError`); nothing is left behind then.
    """
    require_free(out)

    # So that nothing is computed in vain if they cannot be read.
    facts = read_facts(source, evaluations)

    with _stage(out) as directory:
        on_progress("writing")
        left_out = _write(target, directory, source, name or out.name)

        on_progress("reading back")
        theirs = _open(target, directory)

        parity = compare(
            source.make_plain(),
            theirs,
            recordings,
            source.sample_rate,
            vocabulary=source.vocabulary,
            prepared_by_them=(
                theirs.run_as_it_comes if isinstance(theirs, TransformersRunner) else None
            ),
            transcribers=_list_transcribers(target, directory, theirs, source),
            on_progress=lambda: on_progress("comparing"),
        )
        if not parity.is_equal:
            raise ParityError(
                f"{out}: was not written, as the exported model computes something else ({_say_difference(parity)}); "
                "please report this with the versions that `eqssl doctor` prints."
            )

        card = render_card(name or out.name, source, target, parity, facts, evaluations)
        (directory / CARD_FILE).write_text(card, encoding="utf-8")

    return ExportReport(parity, left_out)


def require_free(out: Path) -> None:
    """Refuse a directory that is there already.

    :raises InputError: If it is.
    """
    if out.exists() or out.is_symlink():
        raise InputError(f"{out}: exists already; give another `--out`, or remove it.")


def _write(target: Target, directory: Path, source: ExportSource, name: str) -> tuple[str, ...]:
    if target == "hf":
        return write_transformers(directory, source).left_out

    if target == "torchaudio":
        return write_torchaudio(directory, source)

    if target == "fairseq2":
        check_name(name)

        return write_fairseq2(directory, source, name)

    write_onnx(
        directory,
        source.make_plain(),
        source.vocabulary,
        sample_rate=source.sample_rate,
        metadata={"family": source.checkpoint.family},
    )

    parts = ("encoder_frontend.", "encoder.", "final_proj." if source.vocabulary else "encoder.")

    return tuple(n for n in source.tensors if not n.startswith(parts))


def _open(target: Target, directory: Path) -> Runner:
    runners: Mapping[Target, Callable[[Path], Runner]] = {
        "hf": TransformersRunner,
        "torchaudio": TorchaudioRunner,
        "onnx": OnnxRunner,
        "fairseq2": Fairseq2Runner,
    }

    return runners[target](directory)


def _list_transcribers(
    target: Target, directory: Path, runner: Runner, source: ExportSource
) -> list[Transcriber]:
    if source.vocabulary is None:
        return []

    if target == "onnx":
        # The layout for sherpa-onnx is there at its sample rate only.
        if not (directory / SHERPA_FILE).exists():
            return []

        return [SherpaRunner(directory).transcribe]

    return [runner.transcribe] if isinstance(runner, TransformersRunner) else []


def _say_difference(parity: ParityReport) -> str:
    for comparison in parity.comparisons:
        if not comparison.is_equal:
            logits = "" if comparison.logits is None else f", of logits {comparison.logits:.3g}"

            return f"recordings {comparison.case}: largest difference of features {comparison.features:.3g}{logits}"

    ours, theirs = next((a, b) for a, b in parity.texts if a != b)

    return f"{parity.num_other_texts} texts differ, like {ours!r} and {theirs!r}"


@contextmanager
def _stage(out: Path) -> Iterator[Path]:
    """Make a directory that becomes ``out`` if nothing is raised, and otherwise vanishes."""
    directory = out.with_name(f".{out.name}.{os.getpid()}.new")

    try:
        _remove_abandoned(out)
        directory.mkdir(parents=True)
        lock = os.open(directory, os.O_RDONLY)
    except OSError as ex:
        raise InputError(
            f"{out}: cannot be made ({ex.strerror}); choose another `--out`."
        ) from None

    try:
        # Not every file system has locks.
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)

        yield directory

        require_free(out)
        directory.rename(out)
    except OSError as ex:
        raise InputError(
            f"{out}: cannot be written ({ex.strerror}); choose another `--out`."
        ) from None
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        os.close(lock)


def _remove_abandoned(out: Path) -> None:
    """Remove what exports to ``out`` have left that were killed; one that is still being made holds a lock."""
    for directory in out.parent.glob(f".{glob.escape(out.name)}.*.new"):
        lock = os.open(directory, os.O_RDONLY)

        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(directory, ignore_errors=True)
        except OSError:
            pass
        finally:
            os.close(lock)
