"""Puts the blocks of labels together, and writes all that says what they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from eqssl_speech.labels.files import DICTIONARY_FILE, km_file, save, save_parts
from eqssl_speech.labels.km import iterate_lines
from eqssl_speech.labels.quality import LabelTally
from eqssl_speech.labels.stamp import LabelStamp, SplitStamp, write_stamp
from eqssl_speech.tasks.labels.assignment import LabelBlock, SplitCodebook, read_block
from eqssl_speech.tasks.labels.picture import draw_report
from eqssl_speech.tasks.labels.recordings import LabelSplit, LeftOut, load_phones
from eqssl_speech.tasks.labels.report import make_report, write_report


def merge(
    out: Path,
    stamp: LabelStamp,
    blocks: Sequence[LabelBlock],
    codebooks: Mapping[str, SplitCodebook],
) -> None:
    """Write the label files, the dictionary, the report and, last of all, the stamp.

    :param out: The directory of the labels.
    :param stamp: All that is known of them before.
    :param blocks: All blocks, in order, all of which are there.
    :param codebooks: By source.
    :raises InputError: If something cannot be written.
    """
    splits: dict[str, dict[str, SplitStamp]] = {name: {} for name in stamp.splits}
    tallies: dict[str, dict[str, LabelTally]] = {name: {} for name in stamp.splits}
    left_out: list[tuple[LabelSplit, LeftOut]] = []

    for _, group in groupby(blocks, key=lambda block: block.split.manifest.file):
        parts = list(group)
        split = parts[0].split
        source = split.source.name
        codebook = codebooks[source]

        failures: list[LeftOut] = []
        tally = LabelTally(stamp.num_codes, stamp.settings.features)

        digest = save_parts(
            km_file(out, source, split.name), _join(parts, codebook, failures, tally)
        )

        _count(out, split, tally)

        left_out += [(split, failure) for failure in failures]
        tallies[source][split.name] = tally
        splits[source][split.name] = replace(
            stamp.splits[source][split.name],
            codebook=codebook.digest,
            labels=digest,
            num_labels=int(tally.counts.sum()),
            num_left_out=len(failures),
        )

    finished = replace(stamp, splits=splits, is_finished=True)

    save(out / DICTIONARY_FILE, "".join(f"{i} 1\n" for i in range(stamp.num_codes)).encode())

    report = make_report(finished, tallies, left_out)
    draw_report(report, {name: list(t.values()) for name, t in tallies.items()}, out)
    write_report(report, out)

    write_stamp(out, finished)


def _join(
    blocks: Sequence[LabelBlock],
    codebook: SplitCodebook,
    failures: list[LeftOut],
    tally: LabelTally,
) -> Iterator[bytes]:
    for block in blocks:
        result = read_block(block, codebook)

        failures += result.left_out
        tally.distance += result.distance

        yield "".join(f"{line}\n" for line in result.lines).encode()


def _count(out: Path, split: LabelSplit, tally: LabelTally) -> None:
    phones = load_phones(split)

    # Phones of one language are the same in all its sources.
    language = split.source.language
    language = split.source.name if language == "und" else language

    for entry_nr, labels in enumerate(iterate_lines(km_file(out, split.source.name, split.name))):
        tally.count(labels)

        found = None if phones is None else phones[entry_nr]
        if found:
            spans = [(phone.start_s, phone.end_s, phone.label) for phone in found]
            tally.count_phones(labels, language, spans)
