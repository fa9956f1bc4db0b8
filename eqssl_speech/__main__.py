"""``python -m eqssl_speech`` is ``eqssl``; this is also what ``torchrun -m`` starts."""

from __future__ import annotations

import sys

from eqssl_speech.cli import main

if __name__ == "__main__":
    sys.exit(main())
