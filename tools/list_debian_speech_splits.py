"""List the splits of a prepared debian_speech: ``python tools/list_debian_speech_splits.py CORPUS > FILE``.

One line per recording of valid and test; what is not listed is train, of which the number
and a hash of the names are given.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from eqssl_speech.data.corpus import load_corpus
from eqssl_speech.data.manifest import read_manifest


def main() -> None:
    """Print the listing."""
    print("source\tsplit\trecording")
    for source in load_corpus(Path(sys.argv[1])).sources:
        for split in ("train", "valid", "test"):
            entries = read_manifest(source.manifest_file(split)).entries
            names = [entry.path.removeprefix("audio/").removesuffix(".flac") for entry in entries]
            if split == "train":
                digest = hashlib.sha256("\n".join(names).encode()).hexdigest()
                names = [f"{len(names)} recordings, SHA-256 of their names {digest}"]
            for name in names:
                print(f"{source.name}\t{split}\t{name}")


if __name__ == "__main__":
    main()
