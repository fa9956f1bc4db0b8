#!/usr/bin/env python3
"""How fast the data of `eqssl pretrain` come: seconds of audio per second, over what a model takes.

    .venv/bin/python tools/bench_data.py                                 # flac, ogg and wav against the tiny model
    .venv/bin/python tools/bench_data.py --workers 2 4 8 --repeats 9 --json data.json
    .venv/bin/python tools/bench_data.py --threads 1 --workers 1         # one core for either
    .venv/bin/python tools/bench_data.py --formats ogg --cold --work /mnt/corpora

Reader: that of `eqssl pretrain` with its defaults (K = 1, every source in every update), from files to batches on the
CPU, with nothing behind it. It starts anew in each round and gives one update before the clock starts. `--workers` and
`--prefetch` are `dataset.num_workers` and `dataset.num_prefetch`.
Corpus: the sample in recipes/quickstart/corpus, real speech of 2 to 12 s per file, 16 kHz mono; ogg as it is there, wav
and flac (16 bit) made of it. It has 5 sources, which take turns where `--sources` asks for more, with files of their
own.
Model: forward, backward and AdamW on one batch in memory after another, with the fast parts of
`eqssl_speech.models.wav2vec2`, which is the most that training can take: `eqssl pretrain` does more per batch. It runs
on `--threads` threads; the row to hold against it has as many workers.

Time: one process; in each round the model and every reader have `--seconds` each, one after another. `/ model` is the
median, over the rounds, of a reader's audio per second over the model's of the same round; `CPU / model` is the same of
audio per second of processor time, which other jobs on the machine disturb less: a reader at 50 takes 2 % of the
processor time that training takes. By part, in microseconds of processor time per second of audio: `decode` from the
path to the samples of a crop, `collate` from crops to a batch (with `--normalize`, zero mean and unit variance, which
the models here do not ask for), `rest` the plan and the queues.

The files are in the page cache: they have just been written, and are read over and over, so no disk is measured. With
`--cold`, the system is asked to drop their content before each reader's turn (Linux; file systems and disks may have
caches of their own), which then ends where the corpus was read once.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import eqssl_speech  # isort: skip  # Finds libsndfile before fairseq2 is imported.

import torch
from _bench.corpus import SUBTYPES, drop_from_cache, make_corpus
from _bench.flow import Flow, Trainer, measure_flow
from _bench.job import SAMPLE_RATE, SIZES, Job, JobSpec, parse_batch
from _bench.reading import Feed
from _bench.variants import Plain
from rich.console import Console
from rich.table import Table

from eqssl_speech.models.wav2vec2 import expects_normalized_audio
from eqssl_speech.models.wav2vec2.fast import accelerate
from eqssl_speech.tasks.pretrain.config import PretrainConfig, SourcesSection
from eqssl_speech.tasks.pretrain.sources import CheckedSources, check_sources

LEAST_RATIO: Final = 5.0
"""What a reader must give over what the model takes."""

PARTS: Final = ("decode", "collate", "rest")


@dataclass
class Row:
    """One reader: a format and a number of workers."""

    audio_format: str
    num_workers: int
    feed: Feed
    sources: CheckedSources
    flows: list[Flow] = field(default_factory=list)
    parts_us: list[dict[str, float]] = field(default_factory=list)


def main() -> int:
    """Run the benchmark; exit status 1 where a reader gives less than ``LEAST_RATIO`` times what the model takes."""
    args = parse_args()

    if args.threads:
        torch.set_num_threads(args.threads)

    console = Console()

    with ExitStack() as stack:
        work = args.work or Path(stack.enter_context(TemporaryDirectory(prefix="bench-data-")))
        work.mkdir(parents=True, exist_ok=True)

        with console.status("transcoding"):
            rows = build_rows(work, args)

        for row in rows:
            stack.callback(row.feed.close)

        trainer = build_trainer(args)
        model_flows: list[Flow] = []

        for number in range(args.repeats):
            with console.status(f"round {number + 1} of {args.repeats}"):
                run_round(trainer, rows, model_flows, args, backwards=number % 2 == 1)

    report = describe(args, rows, model_flows)

    print_report(console, report)

    if args.json is not None:
        args.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")

    return 0 if report["within_limits"] else 1


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--formats", nargs="+", choices=sorted(SUBTYPES), default=sorted(SUBTYPES))
    add("--workers", type=int, nargs="+", default=[1, 2], metavar="N")
    add("--prefetch", type=int, default=SourcesSection().num_prefetch, metavar="N")
    add("--sources", type=int, default=6, metavar="M", help="(default: %(default)s)")
    add(
        "--update",
        type=float,
        default=SourcesSection().audio_seconds_per_update,
        metavar="S",
        help="seconds of audio of an update, `dataset.audio_seconds_per_update` (default: %(default)s)",
    )
    add("--normalize", action="store_true", help="each crop, whatever the model asks for")
    add("--cold", action="store_true", help="drop the files from the page cache before each turn")
    add("--model", choices=sorted(SIZES), default="tiny")
    add("--batch", default="8x4s", help="of the model, utterances x seconds (default: %(default)s)")
    add("--threads", type=int, help="of torch (default: torch's choice)")
    add("--seconds", type=float, default=2.0, help="of each in a round (default: %(default)s)")
    add("--repeats", type=int, default=5, help="rounds (default: %(default)s)")
    add("--work", type=Path, metavar="DIR", help="keep the corpora here (default: a temporary one)")
    add("--json", type=Path, metavar="FILE", help="write everything that was measured")
    args = parser.parse_args()

    if min([*args.workers, args.prefetch, args.sources, args.repeats]) < 1 or args.seconds <= 0:
        parser.error(
            "`--workers`, `--prefetch`, `--sources` and `--repeats` must be at least 1, and `--seconds` greater than 0."
        )

    try:
        parse_batch(args.batch)
    except ValueError as ex:
        parser.error(str(ex))

    return args


def build_rows(work: Path, args: argparse.Namespace) -> list[Row]:
    """Make the corpora and, for each, a reader per number of workers."""
    encoder_config = SIZES[args.model]().encoder_config
    normalize = args.normalize or expects_normalized_audio(encoder_config)
    rows = []

    for audio_format in args.formats:
        corpus = make_corpus(work, audio_format, args.sources)
        sources: CheckedSources | None = None

        for num_workers in args.workers:
            section = SourcesSection(
                corpus=corpus,
                audio_seconds_per_update=args.update,
                num_workers=num_workers,
                num_prefetch=args.prefetch,
            )
            sources = sources or check_sources(section)
            feed = Feed(PretrainConfig(dataset=section), sources, normalize=normalize)

            rows.append(Row(audio_format, num_workers, feed, sources))

    return rows


def build_trainer(args: argparse.Namespace) -> Trainer:
    """Build the model that the readers are held against, and warm it up."""
    batch_size, num_samples = parse_batch(args.batch)

    job = Job(
        JobSpec(size=args.model, device="cpu", batch=args.batch, num_inner_steps=0, inner_lr=0.0)
    )
    accelerate(job.model)

    trainer = Trainer(Plain(job), batch_size * num_samples / SAMPLE_RATE)
    trainer.take()

    return trainer


def run_round(
    trainer: Trainer,
    rows: list[Row],
    model_flows: list[Flow],
    args: argparse.Namespace,
    *,
    backwards: bool,
) -> None:
    """Let the model and every reader have their turn."""

    def run_model() -> None:
        model_flows.append(measure_flow(trainer.take, args.seconds))

    turns: list[Callable[[], None]] = [run_model, *(partial(run_reader, r, args) for r in rows)]

    for turn in reversed(turns) if backwards else turns:
        turn()


def run_reader(row: Row, args: argparse.Namespace) -> None:
    """Let a reader have its turn."""
    max_audio_s = math.inf

    if args.cold:
        drop_from_cache(row.sources.corpus.directory)

        max_audio_s = sum(u.num_samples for u in row.sources.train) / SAMPLE_RATE - args.update

    feed = row.feed
    feed.restart()

    flow = measure_flow(feed.take, args.seconds, max_audio_s)
    decode_s, load_s = feed.decoding.cpu_s, feed.loading.cpu_s

    feed.close()

    seconds = (decode_s, load_s - decode_s, flow.cpu_s - load_s)

    row.flows.append(flow)
    row.parts_us.append({p: 1e6 * s / flow.audio_s for p, s in zip(PARTS, seconds)})


def describe(args: argparse.Namespace, rows: list[Row], model_flows: list[Flow]) -> dict[str, Any]:
    """Return what was measured on what."""
    results = [describe_row(row, model_flows) for row in rows]
    sources = rows[0].sources.train

    return {
        "device": platform.machine(),
        "num_threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "eqssl_speech": eqssl_speech.__version__,
        "options": {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()},
        "page_cache": "dropped before each turn" if args.cold else "warm",
        "corpus": {
            "num_sources": len(sources),
            "num_utterances": sum(len(u.lengths) for u in sources),
            "duration_s": sum(u.num_samples for u in sources) / SAMPLE_RATE,
        },
        "limits": {"ratio": LEAST_RATIO},
        "model": {"rate": median_rate(model_flows), "flows": [asdict(f) for f in model_flows]},
        "results": results,
        "within_limits": all(r["ratio"] >= LEAST_RATIO for r in results),
    }


def describe_row(row: Row, model_flows: list[Flow]) -> dict[str, Any]:
    """Hold a reader against the model, round by round."""
    pairs = list(zip(row.flows, model_flows))
    ratios = [feed.rate / model.rate for feed, model in pairs]

    return {
        "format": row.audio_format,
        "num_workers": row.num_workers,
        "rate": median_rate(row.flows),
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "cpu_ratio": statistics.median(feed.cpu_rate / model.cpu_rate for feed, model in pairs),
        "parts_us": {p: statistics.median(parts[p] for parts in row.parts_us) for p in PARTS},
        "flows": [asdict(flow) for flow in row.flows],
    }


def median_rate(flows: list[Flow]) -> float:
    """Return the median, over the rounds, of the seconds of audio per second."""
    return statistics.median(flow.rate for flow in flows)


def print_report(console: Console, report: dict[str, Any]) -> None:
    """Print the table."""
    options, corpus = report["options"], report["corpus"]

    table = Table(
        title=f"{corpus['num_sources']} sources, {corpus['num_utterances']} files, "
        f"{corpus['duration_s'] / 60:.0f} min, page cache {report['page_cache']}",
        padding=(0, 0),
        caption=f"{options['model']} takes {report['model']['rate']:.1f} s of audio a second "
        f"(batches of {options['batch']}, {report['num_threads']} threads); limit: {LEAST_RATIO:g} times that",
    )

    table.add_column("format", no_wrap=True)

    for heading in (
        "workers",
        "audio s\nper s",
        "/ model",
        "min-max",
        "CPU /\nmodel",
        *(f"{part}\n(us)" for part in PARTS),
    ):
        table.add_column(heading, justify="right", no_wrap=True)

    for row in report["results"]:
        table.add_row(
            row["format"],
            str(row["num_workers"]),
            f"{row['rate']:.0f}",
            f"{row['ratio']:.1f}",
            f"{row['ratio_min']:.1f}-{row['ratio_max']:.1f}",
            f"{row['cpu_ratio']:.1f}",
            *(f"{row['parts_us'][part]:.0f}" for part in PARTS),
        )

    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
