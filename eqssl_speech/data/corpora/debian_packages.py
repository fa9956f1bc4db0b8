"""The Debian packages that debian_speech is made of, and how the recordings of each are found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from eqssl_speech.data.corpora.clip import Clip
from eqssl_speech.data.corpora.drascula import list_drascula
from eqssl_speech.data.corpora.festvox import list_festvox
from eqssl_speech.data.corpora.fillets import list_fillets
from eqssl_speech.data.corpora.tuxpaint import list_tuxpaint
from eqssl_speech.data.corpora.untranscribed import (
    list_by_language,
    list_gcin,
    list_hedgewars,
    list_prompts,
    list_queen,
)

#: Fetches a package and returns the directory that it is unpacked in.
Fetch = Callable[[str], Path]


@dataclass(frozen=True)
class SpeechPackage:
    """A package with recordings of speech."""

    name: str
    """Its name in the archive."""

    family: str
    """End of its sources' names, after the language: ``ru-festvox``."""

    domain: str
    """Domain of its sources."""

    licence: str
    """Licence of its recordings."""

    list_clips: Callable[[Fetch], list[Clip]]
    """Lists its recordings."""

    needs: tuple[str, ...] = ()
    """Packages that have its text."""

    has_text: bool = True
    """Whether there is text for whole recordings."""

    needs_ffmpeg: bool = False
    """Whether its format is one that libsndfile does not read."""

    def language_of(self, source: str) -> str:
        """Language of one of its sources, from the source's name."""
        return source.removesuffix(f"-{self.family}")


_DRASCULA_LICENCE: Final = "Drascula-License (BSD-like, modified versions marked)"
_ACTED: Final = "acted dialogue"
_PROMPTS: Final = "telephone prompts"
_WORDS: Final = "letters and words"


def _drascula(package: str, language: str) -> SpeechPackage:
    def list_clips(fetch: Fetch) -> list[Clip]:
        return list_drascula(fetch(package), language, fetch("drascula"))

    needs = () if package == "drascula" else ("drascula",)
    return SpeechPackage(package, "drascula", _ACTED, _DRASCULA_LICENCE, list_clips, needs)


def _fillets(language: str) -> SpeechPackage:
    package, script = f"fillets-ng-data-{language}", "fillets-ng-data"

    def list_clips(fetch: Fetch) -> list[Clip]:
        return list_fillets(fetch(package), language, fetch(script))

    return SpeechPackage(package, "fillets", _ACTED, "GPL-2", list_clips, (script,))


def _asterisk(package: str, family: str, language: str, licence: str) -> SpeechPackage:
    def list_clips(fetch: Fetch) -> list[Clip]:
        return list_prompts(fetch(package), f"{language}-{family}", language)

    needs_ffmpeg = not package.endswith("-wav")
    return SpeechPackage(
        package, family, _PROMPTS, licence, list_clips, has_text=False, needs_ffmpeg=needs_ffmpeg
    )


def _untranscribed(
    package: str, family: str, domain: str, licence: str, lister: Callable[[Path], list[Clip]]
) -> SpeechPackage:
    def list_clips(fetch: Fetch) -> list[Clip]:
        return lister(fetch(package))

    return SpeechPackage(package, family, domain, licence, list_clips, has_text=False)


#: All of them. The order decides which of two identical recordings is kept, so new ones go to the end.
SPEECH_PACKAGES: Final = (
    SpeechPackage(
        "festvox-ru", "festvox", "studio reading", "BSD-like (festvox-ru)",
        lambda fetch: list_festvox(fetch("festvox-ru")),
    ),
    _fillets("cs"),
    _fillets("nl"),
    _drascula("drascula", "en"),
    _drascula("drascula-spanish", "es"),
    _drascula("drascula-italian", "it"),
    SpeechPackage(
        "tuxpaint-stamps-default", "tuxpaint", "short descriptions", "GPL-2",
        lambda fetch: list_tuxpaint(fetch("tuxpaint-stamps-default")),
    ),
    _asterisk("asterisk-core-sounds-en-g722", "asterisk", "en", "CC-BY-SA-3.0"),
    _asterisk("asterisk-core-sounds-es-g722", "asterisk", "es", "CC-BY-SA-3.0"),
    _asterisk("asterisk-core-sounds-fr-g722", "asterisk", "fr", "CC-BY-SA-3.0"),
    _asterisk("asterisk-core-sounds-it-g722", "asterisk", "it", "CC-BY-SA-3.0"),
    _asterisk("asterisk-core-sounds-ru-g722", "asterisk", "ru", "CC-BY-3.0"),
    _asterisk("asterisk-prompt-es-co", "asterisk-co", "es", "GPL-2"),
    _asterisk("asterisk-prompt-fr-armelle", "asterisk-armelle", "fr", "GPL-2+"),
    _asterisk("asterisk-prompt-it-menardi-wav", "asterisk-menardi", "it", "CC-BY-SA-3.0"),
    _untranscribed(
        "flight-of-the-amazon-queen", "amazon-queen", _ACTED,
        "BSD-like (Flight of the Amazon Queen)", list_queen,
    ),
    _untranscribed(
        "klettres-data", "klettres", _WORDS, "GPL-2+",
        lambda root: list_by_language(root, "usr/share/klettres", "klettres"),
    ),
    _untranscribed(
        "ktuberling-data", "ktuberling", _WORDS, "GPL-2+",
        lambda root: list_by_language(root, "usr/share/ktuberling/sounds", "ktuberling"),
    ),
    _untranscribed("gcin-voice", "gcin", _WORDS, "GPL-3 or LGPL-3", list_gcin),
    _untranscribed("hedgewars-data", "hedgewars", _ACTED, "GFDL-1.3 and GPL-2", list_hedgewars),
)  # fmt: skip
