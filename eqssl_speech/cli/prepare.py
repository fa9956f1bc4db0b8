"""``eqssl prepare``: make a corpus."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any, Final

from eqssl_speech.cli.common import add_command, add_conversions, add_jobs

_PREPARE: Final = """\
Make a corpus: one folder of fairseq manifests per source, and `sources.tsv`, which names the language,
domain and licence of each.

examples:
  eqssl prepare debian-speech corpora/debian_speech --jobs 8
  eqssl prepare folder recordings corpora/mine --resample
  eqssl prepare grouped corpora/debian_speech corpora/by-domain --by domain
"""

_DEBIAN: Final = """\
Download the speech in Debian's archive, decode, resample, filter and split it. Runs on Debian and Ubuntu,
needs no root and installs nothing. Interrupted, it goes on where it stopped when started again.

examples:
  eqssl prepare debian-speech corpora/debian_speech
  eqssl prepare debian-speech corpora/ru --package festvox-ru
  eqssl prepare debian-speech corpora/debian_speech --cache /data/debs --jobs 8
"""

_FOLDER: Final = """\
Make a corpus of your recordings: DIR holds one folder per source (a language, a domain), each with audio
files at any depth. Recordings that are 16 kHz mono stay where they are. Text is taken from `X.txt` beside
`X.wav`, or from a `.tsv` in the source's folder with lines `path<TAB>text`, where there is any. A `sources.tsv` in
DIR (columns source, language, domain, licence, with a header) says what each folder holds; without it languages are
`und`, and no language's rules of writing are followed.

examples:
  eqssl prepare folder recordings corpora/mine --test-share 0.05
  eqssl prepare folder recordings corpora/mine --resample --downmix --valid-share 0.1
"""


_GROUPED: Final = """\
Make a corpus whose sources are the languages of another, or its domains (acted dialogue, telephone prompts): what
pre-training adapts to is then a language, or a domain. The audio stays where it is. A source that holds several
languages has the language `mul` and no texts.

examples:
  eqssl prepare grouped corpora/debian_speech corpora/by-domain --by domain
  eqssl prepare grouped corpora/debian_speech corpora/by-language --by language
"""


def add(commands: Any) -> None:
    """Add the command."""
    prepare = add_command(commands, "prepare", _PREPARE, "make a corpus")
    corpora = prepare.add_subparsers(metavar="CORPUS", required=True)

    _add_debian_speech(corpora)
    _add_folder(corpora)
    _add_grouped(corpora)


def _add_debian_speech(corpora: Any) -> None:
    parser = add_command(corpora, "debian-speech", _DEBIAN, "the speech in Debian's archive")

    parser.add_argument("out", metavar="OUT", type=Path, help="directory of the corpus")
    parser.add_argument(
        "--cache", type=Path, help="where packages are kept (default: inside OUT; 1.7 GB for all)"
    )
    parser.add_argument(
        "--package",
        metavar="NAME",
        action="append",
        help="use this package; may be given several times (default: all)",
    )
    add_jobs(parser)
    parser.set_defaults(run=_prepare_debian_speech)


def _add_folder(corpora: Any) -> None:
    parser = add_command(corpora, "folder", _FOLDER, "your own recordings")

    parser.add_argument("directory", metavar="DIR", type=Path, help="one folder per source")
    parser.add_argument("out", metavar="OUT", type=Path, help="directory of the corpus")
    parser.add_argument(
        "--valid-share", type=float, default=0.05, help="share for validation (default: 0.05)"
    )
    parser.add_argument(
        "--test-share", type=float, default=0.0, help="share for testing (default: 0)"
    )
    parser.add_argument(
        "--min-audio-s", type=float, default=0.6, help="shortest recording (default: 0.6)"
    )
    add_conversions(parser)
    add_jobs(parser)
    parser.set_defaults(run=_prepare_folder)


def _add_grouped(corpora: Any) -> None:
    parser = add_command(corpora, "grouped", _GROUPED, "the languages or domains of another corpus")

    parser.add_argument("corpus", metavar="CORPUS", type=Path, help="directory of the corpus")
    parser.add_argument("out", metavar="OUT", type=Path, help="directory of the new one")
    parser.add_argument(
        "--by", choices=("language", "domain"), required=True, help="what a source is"
    )
    parser.add_argument(
        "--source",
        metavar="NAME",
        action="append",
        help="take this source; may be given several times (default: all)",
    )
    parser.set_defaults(run=_prepare_grouped)


def _prepare_debian_speech(options: Namespace) -> int:
    from eqssl_speech.console import print_prepared, show_progress, track_phases
    from eqssl_speech.data.corpora.debian_speech import prepare_debian_speech

    with show_progress() as progress:
        report = prepare_debian_speech(
            options.out,
            cache=options.cache,
            num_workers=options.jobs,
            packages=options.package,
            progress=track_phases(progress),
        )

    print_prepared(report)

    return 0


def _prepare_folder(options: Namespace) -> int:
    from eqssl_speech.console import print_prepared, show_progress, track_phases
    from eqssl_speech.data.corpora.folder import prepare_folder

    with show_progress() as progress:
        report = prepare_folder(
            options.directory,
            options.out,
            valid_share=options.valid_share,
            test_share=options.test_share,
            min_duration_s=options.min_audio_s,
            resample=options.resample,
            downmix=options.downmix,
            num_workers=options.jobs,
            progress=track_phases(progress),
        )

    print_prepared(report)

    return 0


def _prepare_grouped(options: Namespace) -> int:
    from eqssl_speech.data.corpora.grouped import group_corpus
    from eqssl_speech.data.corpus import load_corpus
    from eqssl_speech.text.tables import render_table

    groups = group_corpus(load_corpus(options.corpus), options.out, options.by, options.source)

    rows = [["source", "language", "train", "valid", "test", "made of"]]
    for group in groups:
        counts = [str(group.num_utterances.get(split, 0)) for split in ("train", "valid", "test")]
        rows.append([group.source.name, group.source.language, *counts, ", ".join(group.members)])

    left = ("source", "language", "made of")
    print(render_table(rows, title="utterances of each source", left=left))
    print(f"Written: {options.out}")

    return 0
