"""Deterministic finite acceptors over tokens: which token sequences may be said."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from data_pipeline.errors import UserError
from speech_gru.decoding.checks import as_tokens

MOST_STATES = 100_000
"""More than a device searches well: a table of 60 tokens takes 24 MB then."""


@dataclass(frozen=True)
class Acceptor:
    """Accepts the token sequences that lead from state 0 to a final state.

    Raises:
        UserError: an arc's token is the blank, an arc or a final state is none of the states, or there is none.
    """

    arcs: tuple[dict[int, int], ...]
    """A state's: the next state by token."""
    finals: frozenset[int]
    """The final states."""

    def __post_init__(self):
        states = range(len(self.arcs))
        targets = {target for arcs in self.arcs for target in arcs.values()} | self.finals | {0}
        if not all(target in states for target in targets):
            raise UserError(
                f"expected arcs and final states among the {len(states)} states from 0, got {sorted(targets)}"
            )
        as_tokens({token for arcs in self.arcs for token in arcs}, "an acceptor's arcs")

    def accepts(self, tokens: Iterable[int]) -> bool:
        """Whether this is one of the sequences."""
        state = 0
        for token in tokens:
            if token not in self.arcs[state]:
                return False
            state = self.arcs[state][token]
        return state in self.finals

    def table(self, token_count: int) -> np.ndarray:
        """(states, tokens) int32: the next state, -1 where there is no arc.

        Raises:
            UserError: an arc's token is `token_count` or more.
        """
        as_tokens({token for arcs in self.arcs for token in arcs}, "an acceptor's arcs", token_count)
        table = np.full((len(self.arcs), token_count), -1, np.int32)
        for state, arcs in enumerate(self.arcs):
            table[state, list(arcs)] = list(arcs.values())
        return table


def acceptor_of_phrases(phrases: Iterable[Sequence[int]]) -> Acceptor:
    """Accepts each of the phrases, and nothing else: a trie.

    Args:
        phrases: token sequences, as `spell` makes them.

    Raises:
        UserError: no phrases, a phrase without tokens, or tokens that are none.
    """
    network = Network()
    start, final = network.state(), network.state()
    for phrase in _checked(phrases, "phrase"):
        network.arc(network.path(start, phrase), None, final)
    return network.determinize(start, final)


def acceptor_of_words(words: Iterable[Sequence[int]], separator: int | None = None) -> Acceptor:
    """Accepts any sequence of the words, none at all as well: silence.

    Args:
        words: token sequences, as `spell` makes them.
        separator: the token between words, the space of a table of characters; None: there is none.

    Raises:
        UserError: no words, a word without tokens or with the separator in it, or tokens that are none.
    """
    network = Network()
    start, final = network.state(), network.state()
    network.arc(start, None, final)
    between = network.separator(separator)
    for word in _checked(words, "word"):
        if separator in word:
            raise UserError(f"expected words without the separator, token {separator}, got {word}; split it there")
        end = network.path(start, between + word)
        network.arc(end, None, start)
    return network.determinize(network.without_first(start, final, separator), final)


def _checked(sequences: Iterable[Sequence[int]], what: str) -> list[tuple[int, ...]]:
    sequences = [as_tokens(sequence, f"{what} {number}") for number, sequence in enumerate(sequences, 1)]
    if not sequences or () in sequences:
        raise UserError(f"expected {what}s of at least one token each, got {sequences}; leave out empty ones")
    return sequences


class Network:
    """An acceptor in the making: of a state several arcs may have the same token, or None, which takes no token."""

    def __init__(self):
        self._arcs: list[list[tuple[int | None, int]]] = []

    def state(self) -> int:
        """A new state.

        Raises:
            UserError: there are too many.
        """
        if len(self._arcs) == MOST_STATES:
            raise UserError(
                f"expected phrases that take at most {MOST_STATES} states, got more; "
                "use fewer or shorter phrases, or rules that refer to each other less often"
            )
        self._arcs.append([])
        return len(self._arcs) - 1

    def arc(self, source: int, token: int | None, target: int) -> None:
        """A new arc."""
        self._arcs[source].append((token, target))

    def path(self, source: int, tokens: Iterable[int]) -> int:
        """New states for a token sequence; returns the last."""
        for token in tokens:
            target = self.state()
            self.arc(source, token, target)
            source = target
        return source

    @staticmethod
    def separator(token: int | None) -> tuple[int, ...]:
        """What is said before each word, the first one too until `without_first`."""
        return () if token is None else as_tokens([token], "the separator")

    def without_first(self, start: int, final: int, separator: int | None) -> int:
        """Another start state, from which the separator before the first word is left out."""
        if separator is None:
            return start
        reached, state = self._closure({start}), self.state()
        targets = [target for source in reached for token, target in self._arcs[source] if token == separator]
        for target in targets + [final] * (final in reached):
            self.arc(state, None, target)
        return state

    def determinize(self, start: int, final: int) -> Acceptor:
        """The acceptor of the sequences that lead from `start` to `final`: one of its states is a set of these states.

        Raises:
            UserError: it has too many states.
        """
        sets = [self._closure({start})]
        numbers, arcs = {sets[0]: 0}, []
        for states in sets:  # grows on the way
            targets: dict[int, set[int]] = {}
            for token, target in (arc for state in sorted(states) for arc in self._arcs[state]):
                if token is not None:
                    targets.setdefault(token, set()).add(target)
            arcs.append({})
            for token, reached in targets.items():
                closure = self._closure(reached)
                if closure not in numbers:
                    numbers[closure] = len(sets)
                    sets.append(closure)
                arcs[-1][token] = numbers[closure]
        return Acceptor(tuple(arcs), frozenset(number for states, number in numbers.items() if final in states))

    def _closure(self, states: set[int]) -> frozenset[int]:
        """These states and those that are reached from them without a token."""
        reached, open_ = set(states), list(states)
        while open_:
            further = {target for token, target in self._arcs[open_.pop()] if token is None} - reached
            reached |= further
            open_ += further
        return frozenset(reached)
