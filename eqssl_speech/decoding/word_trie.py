"""The words of an n-gram as flashlight's search over a lexicon wants them, for a token between words."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, final

from eqssl_speech.decoding.ngram import import_flashlight


@final
class WordTrie:
    """Words spelled in tokens, each followed by the token that stands between words."""

    def __init__(self, vocab_size: int, boundary: int) -> None:
        """
        :param vocab_size: The number of tokens.
        :param boundary: The token between words.
        """
        self._flashlight = import_flashlight()
        self._boundary = boundary

        self.trie: Any = self._flashlight.Trie(vocab_size, boundary)
        """flashlight's ``Trie``."""

    def insert(self, entries: Iterable[tuple[Sequence[int], int, float]]) -> None:
        """Add words for good.

        :param entries: The tokens of each word, its index in the n-gram, and its score at the begin of a sentence.
        """
        for spelling, word, score in entries:
            self.trie.insert([*spelling, self._boundary], word, score)

        self.trie.smear(self._flashlight.SmearingMode.MAX)

    @contextmanager
    def extended(self, entries: Iterable[tuple[Sequence[int], int, float]]) -> Iterator[None]:
        """Add words for the time of a ``with`` block.

        :param entries: As for :meth:`insert`; none of them may be there yet.
        """
        removals: list[Callable[[], None]] = []
        try:
            for spelling, word, score in entries:
                removals.append(self._insert_new([*spelling, self._boundary], word, score))
            yield
        finally:
            for remove in reversed(removals):
                remove()

    def _insert_new(self, path: list[int], word: int, score: float) -> Callable[[], None]:
        # The first node that is not there yet, and with it all that follow.
        first = next(n for n in range(1, len(path) + 1) if self.trie.search(path[:n]) is None)

        parent = self.trie.search(path[: first - 1])
        before = parent.children

        self.trie.insert(path, word, score)

        # Nodes begin with a score of 0, which is better than any.
        for n in range(first, len(path) + 1):
            self.trie.search(path[:n]).max_score = score

        def remove() -> None:
            parent.children = before

        return remove
