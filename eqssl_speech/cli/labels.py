"""``eqssl labels``: k-means labels of a corpus, which HuBERT is taught with."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, final

from eqssl_speech.cli.common import add_command, add_conversions, add_jobs, positive_int
from eqssl_speech.cli.recognition import choose_device, positive_float
from eqssl_speech.error import InputError

if TYPE_CHECKING:
    from eqssl_speech.labels.features import FeatureExtractor
    from eqssl_speech.labels.settings import LabelSettings
    from eqssl_speech.tasks.labels.job import GivenCodebooks, LabelJob
    from eqssl_speech.tasks.labels.recordings import LabelSplit
    from eqssl_speech.tasks.labels.report import LabelReport

_LABELS: Final = """\
Make the labels that HuBERT is taught with: cluster acoustic features of a corpus by k-means, and label each frame with
its nearest cluster. The features are MFCCs (100 labels a second), or a layer of a model (50).

Writes into OUT a label file SOURCE/SPLIT.km for each manifest, which fairseq reads as well, dict.km.txt, the codebook,
quality.json and quality.png (how many labels are used, how long they last and, where a manifest has a SPLIT.phones.ctm,
what they tell of phones), and labels.json, the stamp by which pre-training knows whether labels fit. Recordings that
cannot be read are named and counted; their lines are empty.

The same command goes on where it was stopped. Several processes share the work; all of them must see OUT. The labels do
not depend on how many there are.

examples:
  eqssl labels corpus labels/mfcc
  eqssl labels corpus labels/layer6 --checkpoint runs/hubert --layer 6 --clusters 500
  eqssl labels corpus labels/layer9 --checkpoint hf/mhubert-147 --layer 9 --clusters 500
  eqssl labels corpus labels/own --per-source --clusters 50
  eqssl labels corpus labels/test --split test --codebook labels/mfcc
  torchrun --nproc-per-node 8 -m eqssl_speech labels corpus labels/layer6 --checkpoint runs/hubert --layer 6
"""

_SPLITS: Final = ("train", "valid")

_CLUSTERS: Final = 100

_HOURS: Final = 10.0

_SEED: Final = 1


def add(commands: Any) -> None:
    """Add the command."""
    parser = add_command(commands, "labels", _LABELS, "k-means labels of a corpus, for HuBERT")

    parser.add_argument("corpus", metavar="CORPUS", type=Path, help="directory of the corpus")
    parser.add_argument("out", metavar="OUT", type=Path, help="directory for the labels")
    parser.add_argument(
        "--source",
        metavar="NAME",
        action="append",
        help="label this source; may be given several times (default: all)",
    )
    parser.add_argument(
        "--split",
        metavar="NAME",
        action="append",
        help=f"label this split; may be given several times (default: {' and '.join(_SPLITS)})",
    )
    _add_features(parser)
    _add_clusters(parser)
    add_conversions(parser)
    add_jobs(parser)
    parser.set_defaults(run=_run)


def _add_features(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("features")

    group.add_argument(
        "--features",
        choices=["mfcc"],
        help="MFCCs with their differences (default, without a model)",
    )
    group.add_argument(
        "--checkpoint",
        metavar="MODEL",
        help="run or step of ours, directory of Hugging Face transformers, file of fairseq, fairseq2 or torchaudio, or "
        "name of a fairseq2 asset",
    )
    group.add_argument(
        "--layer",
        metavar="N",
        type=positive_int,
        help="layer of the model, from 1; with --checkpoint",
    )
    group.add_argument(
        "--step", metavar="N", type=positive_int, help="checkpoint to take (default: the best)"
    )
    group.add_argument(
        "--device",
        help="auto, cpu or cuda (default: auto, which is cuda where there is one); with --checkpoint",
    )


def _add_clusters(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("clusters")

    group.add_argument(
        "--clusters", metavar="N", type=positive_int, help=f"clusters (default: {_CLUSTERS})"
    )
    group.add_argument(
        "--per-source",
        action="store_true",
        help="cluster each source by itself, into N clusters and labels of its own",
    )
    group.add_argument(
        "--hours-for-clustering",
        metavar="H",
        type=positive_float,
        help="audio that is clustered, of the training splits, of each source as much "
        f"(default: {_HOURS:g} hours); its features lie in OUT/.work until the clusters are made, and are removed "
        "then: 10 hours of MFCCs take 0.56 GB, of a layer of 768 numbers 5.5 GB",
    )
    group.add_argument("--seed", metavar="N", type=int, help=f"0 or greater (default: {_SEED})")
    group.add_argument(
        "--codebook",
        metavar="DIR",
        type=Path,
        help="use the clusters of these labels instead of making new ones, for new data or splits",
    )


def _run(options: Namespace) -> int:
    from eqssl_speech.tasks.evaluate.gang import open_gang

    _validate(options)

    with open_gang() as gang:
        job = _prepare(options, gang)

        report = job.run(_Display(is_shown=gang.rank == 0))

        if gang.rank == 0:
            _print_report(report, options.out)

    return 0


def _validate(options: Namespace) -> None:
    """Refuse what contradicts itself before anything is read."""
    if options.checkpoint is None:
        for name in ("layer", "step", "device"):
            if getattr(options, name) is not None:
                raise InputError(f"`--{name}` is of a model; give `--checkpoint` as well.")
    elif options.features is not None:
        raise InputError("Give either `--features mfcc` or `--checkpoint`, not both.")
    elif options.layer is None:
        raise InputError("`--checkpoint` needs `--layer`, the layer whose output is clustered.")

    if options.seed is not None and options.seed < 0:
        raise InputError(f"`--seed` must be at least 0, but is {options.seed} instead.")

    if options.codebook is not None:
        for name in ("clusters", "hours_for_clustering", "seed"):
            if getattr(options, name) is not None:
                option = name.replace("_", "-")
                raise InputError(
                    f"`--{option}` is about making clusters, which `--codebook` already has; leave one of them out."
                )
        if options.per_source:
            raise InputError(
                "`--per-source` is about making clusters, which `--codebook` already has; leave one of them out."
            )


def _prepare(options: Namespace, gang: Any) -> LabelJob:
    """Open everything, so that what can fail fails before hours of work."""
    from eqssl_speech.data.corpus import load_corpus, select_sources
    from eqssl_speech.labels.kmeans import require_sklearn
    from eqssl_speech.tasks.labels.job import LabelJob
    from eqssl_speech.tasks.labels.recordings import list_splits
    from eqssl_speech.tasks.transcribe.output import make_directory

    if options.codebook is None:
        require_sklearn()

    corpus = select_sources(load_corpus(options.corpus), options.source)
    splits = list_splits(corpus, options.split or _SPLITS)

    extractor = _create_extractor(options)
    given = _open_codebooks(options, extractor, splits)
    settings = _describe(options, extractor, given, splits)

    make_directory(options.out)

    # Processes of one machine share its cores.
    num_threads = max(1, options.jobs // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))

    return LabelJob(options.out, splits, settings, extractor, given, num_threads, gang)


def _create_extractor(options: Namespace) -> FeatureExtractor:
    from eqssl_speech.labels.features import MfccExtractor

    if options.checkpoint is None:
        return MfccExtractor()

    from eqssl_speech.labels.layers import LayerExtractor, read_encoder

    device = choose_device(None if options.device in (None, "auto") else options.device)

    checkpoint = read_encoder(options.checkpoint, options.step)

    return LayerExtractor(checkpoint, options.layer, device)


def _open_codebooks(
    options: Namespace, extractor: FeatureExtractor, splits: list[LabelSplit]
) -> GivenCodebooks | None:
    from eqssl_speech.tasks.labels.given import open_codebooks

    if options.codebook is None:
        return None

    names = list(dict.fromkeys(split.source.name for split in splits))

    return open_codebooks(options.codebook, extractor.stamp, names)


def _describe(
    options: Namespace,
    extractor: FeatureExtractor,
    given: GivenCodebooks | None,
    splits: list[LabelSplit],
) -> LabelSettings:
    from eqssl_speech.labels.settings import LabelSettings
    from eqssl_speech.tasks.labels.job import CLUSTERED_SPLIT

    features, precision = extractor.stamp, extractor.precision

    if given is not None:
        codebooks = list(given.stamp.codebooks.values())

        return LabelSettings(
            features=features,
            num_clusters=codebooks[0].num_codes,
            per_source=given.stamp.settings.per_source,
            given_codebooks=tuple(codebook.digest for codebook in codebooks),
            resample=options.resample,
            downmix=options.downmix,
            precision=precision,
        )

    if CLUSTERED_SPLIT not in {split.name for split in splits}:
        raise InputError(
            f"Clusters are made of the split `{CLUSTERED_SPLIT}`, which is not among those of `--split`; add it, or "
            "take the clusters of other labels with `--codebook`."
        )

    return LabelSettings(
        features=features,
        num_clusters=options.clusters or _CLUSTERS,
        per_source=options.per_source,
        hours=options.hours_for_clustering or _HOURS,
        seed=_SEED if options.seed is None else options.seed,
        resample=options.resample,
        downmix=options.downmix,
        precision=precision,
    )


@final
class _Display:
    """Shows a bar for each phase, on the error stream."""

    def __init__(self, *, is_shown: bool) -> None:
        self._is_shown = is_shown

    @contextmanager
    def audio(
        self, phase: str, num_recordings: int, audio_s: float
    ) -> Iterator[Callable[[float], None]]:
        from eqssl_speech.cli.audio_progress import show_audio_progress

        # What an earlier run has done.
        if not self._is_shown or num_recordings == 0:
            yield lambda done_s: None
            return

        print(f"{phase}:", file=sys.stderr)

        with show_audio_progress(num_recordings, audio_s) as progress:

            def advance(done_s: float) -> None:
                progress.advance(done_s)
                progress.finish_recording()

            yield advance

    @contextmanager
    def steps(self, phase: str) -> Iterator[Callable[[int, int], None]]:
        from eqssl_speech.console import show_progress, track_phases

        with show_progress() as progress:
            track = track_phases(progress)

            yield lambda done, total: track(phase, done, total)


def _print_report(report: LabelReport, out: Path) -> None:
    from eqssl_speech.tasks.labels.table import render_report
    from eqssl_speech.tasks.transcribe.output import to_printable

    for left in report.left_out:
        where = f"{left.source}/{left.split}.tsv:{left.line}"
        print(to_printable(f"left out ({left.reason}): {where}: {left.path}"), file=sys.stderr)

    if report.left_out:
        counts = Counter(left.reason for left in report.left_out).most_common()
        total = len(report.left_out) + report.all.num_utterances
        reasons = ", ".join(f"{count} {reason}" for reason, count in counts)

        print(
            f"{len(report.left_out)} of {total} utterances left out: {reasons}; mend them, and label into another OUT "
            f"with `--codebook {to_printable(str(out))}`, which keeps the clusters.",
            file=sys.stderr,
        )

    print(render_report(report))
    print(to_printable(f"Labels are complete in {out}"))
