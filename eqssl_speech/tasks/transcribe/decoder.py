"""Which search finds the words."""

from __future__ import annotations

from eqssl_speech.decoding.greedy import decode_greedy
from eqssl_speech.tasks.transcribe.result import Decoder
from eqssl_speech.text.tokenizer import CtcTokenizer


def make_decoder(tokenizer: CtcTokenizer) -> tuple[Decoder, str]:
    """Make a search.

    :param tokenizer: The model's vocabulary.
    :returns: The search, and what it is in words.
    """
    return decode_greedy, "greedy"
