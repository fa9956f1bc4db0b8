"""The codebooks of other labels, which new data is labelled with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from eqssl_speech.error import InputError
from eqssl_speech.labels.codebook import codebook_file, read_codebook
from eqssl_speech.labels.settings import FeatureStamp
from eqssl_speech.labels.stamp import STAMP_FILE, read_stamp
from eqssl_speech.tasks.labels.job import GivenCodebooks


def open_codebooks(
    directory: Path, features: FeatureStamp, source_names: Sequence[str]
) -> GivenCodebooks:
    """Check the codebooks of other labels.

    :param directory: The directory of the labels.
    :param features: What is to be labelled.
    :param source_names: The sources that are to be labelled.
    :raises InputError: If there are none, or they are of other features, or of other sources.
    """
    stamp = read_stamp(directory)

    if stamp is None or not stamp.is_finished:
        lack = f"as there is no {STAMP_FILE}" if stamp is None else "as it is not finished"

        raise InputError(
            f"{directory}: holds no labels whose codebook could be used, {lack}; give a directory that `eqssl labels` "
            "has finished."
        )

    for group, codebook in stamp.codebooks.items():
        found = read_codebook(codebook_file(directory, group))

        if found.digest != codebook.digest:
            raise InputError(
                f"{codebook_file(directory, group)}: is not the codebook that the labels beside it were made with; "
                "give the directory as `eqssl labels` wrote it."
            )

    if stamp.settings.features != features:
        raise InputError(
            f"{directory}: its codebook is of {stamp.settings.features.describe()}, but the features are "
            f"{features.describe()}; give the same `--checkpoint` and `--layer` as for the codebook, or none of them "
            "for MFCCs."
        )

    for name in source_names:
        if stamp.codebook_of(name) is None:
            raise InputError(
                f"{directory}: has codebooks per source, but none of the source `{name}`; its sources are "
                f"{', '.join(f'`{group}`' for group in stamp.codebooks)}, so choose among them with `--source`."
            )

    return GivenCodebooks(directory, stamp)
