"""``eqssl`` whose second process fails at its third batch.

Started by torchrun; the arguments are those of ``eqssl``.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import eqssl_speech  # noqa: F401  # isort: skip  # Before fairseq2, as it makes libsndfile findable.

import fairseq2.recipe.cli  # noqa: F401  # Else importing the trainer first is circular.

from eqssl_speech.cli import main
from eqssl_speech.tasks.pretrain.train_unit import PretrainUnit


def fail_at_the_third_batch() -> None:
    process_batch, count = PretrainUnit.process_batch, 0

    def process_or_fail(*args: Any) -> Any:
        nonlocal count
        count += 1

        if count == 3:
            raise OSError("disk 7 is on fire")

        return process_batch(*args)

    PretrainUnit.process_batch = process_or_fail  # type: ignore[method-assign]


if __name__ == "__main__":
    if os.environ["RANK"] == "1":
        fail_at_the_third_batch()

    sys.exit(main())
