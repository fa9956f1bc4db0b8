"""A word n-gram as flashlight's lexicon-free search asks it: token by token, for pieces of which some begin words.

flashlight has a search over a lexicon of its own (``word_trie.py`` uses it, for characters), but that one leaves a word
at its last token and cannot stay there for another frame, unless it is the token between words. Where ``▁`` begins
words, no token ends them, and every word whose last piece lasts two frames would lose those paths. The lexicon-free
search has no such gap. The price is a call from C++ to Python, about 2 microseconds, for each token it tries.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias, final

from eqssl_speech.decoding.ngram import LOG_10, NGram, import_flashlight

IMPOSSIBLE: Final = -1e10
"""The score of what the lexicon does not allow; infinity would make not-a-number where nothing else is left."""


@final
@dataclass(eq=False)
class WordNode:
    """The words that begin with the same tokens."""

    children: dict[int, WordNode] = field(default_factory=dict)
    """The longer beginnings, by their next token."""

    word: int | None = None
    """The index in the n-gram of the word that ends here."""

    best: float = -math.inf
    """The largest score, at the begin of a sentence, of the words that begin so: what may be hoped for."""

    def insert(self, spelling: Sequence[int], word: int, score: float) -> None:
        """Add a word.

        :param spelling: Its tokens.
        :param word: Its index in the n-gram.
        :param score: Its score at the begin of a sentence.
        """
        self.best = max(self.best, score)

        if spelling:
            self.children.setdefault(spelling[0], WordNode()).insert(spelling[1:], word, score)
        else:
            self.word = word

    def extend(self, spelling: Sequence[int], word: int, score: float) -> WordNode:
        """Return a tree with one word more, which shares the rest with this one; this one stays as it is."""
        best = max(self.best, score)

        if not spelling:
            return WordNode(self.children, word, best)

        child = self.children.get(spelling[0], WordNode()).extend(spelling[1:], word, score)

        return WordNode({**self.children, spelling[0]: child}, self.word, best)


_Place: TypeAlias = tuple[WordNode, Any]
"""How far the current word is spelled, and KenLM's state before it."""


@final
class WordModel:
    """Scores tokens so that they add up to the weighted log-probability of the sentence and ``word_score`` a word.

    Within a word, the best that may still come is anticipated, and made good at its end.
    """

    def __init__(
        self,
        ngram: NGram,
        root: WordNode,
        begins_word: Sequence[bool],
        *,
        lm_weight: float,
        word_score: float,
    ) -> None:
        """
        :param ngram: The n-gram.
        :param root: The words, spelled.
        :param begins_word: For each token, whether its piece begins a word.
        :param lm_weight: The factor of the natural logarithm of the n-gram's probability.
        :param word_score: What is added for each word.
        """
        self._model = ngram.model
        self._root = root
        self._begins_word = begins_word
        self._lm_weight = lm_weight * LOG_10
        self._word_score = word_score

    def start(self) -> _Place:
        """Return the place before the first word."""
        return self._root, self._model.start(False)

    def step(self, place: _Place, token: int) -> tuple[_Place | None, float]:
        """Append a token.

        :param place: Where the tokens so far lead.
        :param token: The next one.
        :returns: Where that leads, ``None`` if no word is spelled so, and what it adds to the score.
        """
        node, state = place
        score = 0.0

        ends_word = self._begins_word[token] and node is not self._root

        child = (self._root if ends_word else node).children.get(token)
        if child is None:
            return None, IMPOSSIBLE

        if ends_word:
            state, score = self._leave(node, state)
            if state is None:
                return None, IMPOSSIBLE
            node = self._root

        hoped_for = 0.0 if node is self._root else node.best

        return (child, state), score + self._lm_weight * (child.best - hoped_for)

    def finish(self, place: _Place) -> float:
        """Return what the end of the sentence adds to the score."""
        node, state = place
        score = 0.0

        if node is not self._root:
            state, score = self._leave(node, state)
            if state is None:
                return IMPOSSIBLE

        return score + self._lm_weight * float(self._model.finish(state)[1])

    def _leave(self, node: WordNode, state: Any) -> tuple[Any | None, float]:
        # Ends the word that is spelled.
        if node.word is None:
            return None, IMPOSSIBLE

        state, score = self._model.score(state, node.word)

        return state, self._lm_weight * (score - node.best) + self._word_score


def adapt(model: WordModel) -> Any:
    """Make what flashlight calls.

    :param model: The scores.
    :returns: A ``flashlight.lib.text.decoder.LM``, for one search at a time.
    """
    flashlight = import_flashlight()

    # Its base class is not there to inherit from where the extra is not installed.
    class Adapter(flashlight.LM):  # type: ignore[name-defined, misc]
        def start(self, _: bool) -> Any:
            self.nowhere = flashlight.LMState()
            self.dead_end = (self.nowhere, IMPOSSIBLE)
            root = flashlight.LMState()
            # States are told apart by identity, and must live on for that.
            self.places: dict[Any, _Place] = {root: model.start()}
            self.seen: dict[Any, dict[int, tuple[Any, float]]] = {root: {}, self.nowhere: {}}
            return root

        def score(self, state: Any, token: int) -> tuple[Any, float]:
            # Most of the calls ask again, or for what the lexicon does not allow.
            answers = self.seen[state]
            return answers.get(token) or self._look_up(state, token, answers)

        def finish(self, state: Any) -> tuple[Any, float]:
            place = self.places.get(state)
            return state.child(-1), IMPOSSIBLE if place is None else model.finish(place)

        def _look_up(
            self, state: Any, token: int, answers: dict[int, tuple[Any, float]]
        ) -> tuple[Any, float]:
            place = self.places.get(state)
            following, score = (None, IMPOSSIBLE) if place is None else model.step(place, token)
            if following is None:
                answers[token] = self.dead_end
                return self.dead_end
            child = state.child(token)
            self.places[child] = following
            self.seen[child] = {}
            answers[token] = (child, score)
            return answers[token]

    return Adapter()
