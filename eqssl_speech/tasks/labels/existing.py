"""What a directory of labels holds already, and whether that is what is asked for."""

from __future__ import annotations

from pathlib import Path

from eqssl_speech.error import InputError
from eqssl_speech.labels.files import work_dir
from eqssl_speech.labels.settings import find_difference
from eqssl_speech.labels.stamp import STAMP_FILE, LabelStamp


def require_empty(out: Path) -> None:
    """Refuse a directory that holds something else than labels.

    :raises InputError: If it holds files that are not hidden.
    """
    if out.is_dir() and any(not file.name.startswith(".") for file in out.iterdir()):
        raise InputError(
            f"{out}: holds other files, but no {STAMP_FILE}; give a new directory for the labels."
        )


def is_begun(out: Path) -> bool:
    """Say whether unfinished labels have more than a plan: features, clusters or labels."""
    work = work_dir(out)

    return (
        any(out.glob("codebook*.safetensors"))
        or (work / "features").exists()
        or (work / "labels").exists()
    )


def require_same(out: Path, stamp: LabelStamp, wanted: LabelStamp) -> None:
    """Refuse to go on with labels that are made otherwise, or of something else.

    :param out: The directory of the labels.
    :param stamp: What is there.
    :param wanted: What is asked for.
    :raises InputError: If they differ; it names the first difference.
    """
    remedy = "use another OUT for other labels, or run the command as before"

    difference = find_difference(stamp.settings, wanted.settings)
    if difference is not None:
        raise InputError(f"{out}: holds labels that were made otherwise: {difference}; {remedy}.")

    theirs = {(source, split) for source, splits in stamp.splits.items() for split in splits}
    ours = {(source, split) for source, splits in wanted.splits.items() for split in splits}

    for source, split in sorted(theirs ^ ours):
        where = "asked for now but not there" if (source, split) in ours else "not asked for now"

        raise InputError(
            f"{out}: holds labels of other splits or sources: `{split}` of `{source}` is {where}; use another OUT "
            f"(with `--codebook {out}` for the same clusters), or run the command as before."
        )

    for source, splits in wanted.splits.items():
        for split, split_stamp in splits.items():
            if stamp.splits[source][split].manifest != split_stamp.manifest:
                raise InputError(
                    f"{out}: holds labels of another corpus: the manifest `{split}` of `{source}` lists other "
                    f"utterances now; {remedy}."
                )
