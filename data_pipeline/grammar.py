"""Grammars: rules that expand to phrases.

    rules = {
        "command": ["turn <switch> [the] <room> light", "stop"],
        "switch": ["on", "off"],
        "room": ["kitchen", "living room"],
    }

A rule has alternatives; each is words, references to rules in angle brackets, and parts in square brackets that may be
left out.
"""

import re
from collections.abc import Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import NamedTuple

import numpy as np

from data_pipeline.errors import UserError

NAME = r"[^<>\[\]]+"
PIECE = re.compile(rf"\s*(?:<(?P<reference>{NAME})>|(?P<bracket>[\[\]])|(?P<word>[^\s<>\[\]]+)|(?P<wrong>\S))")

LONGEST_SENTENCE = 64
"""Words of a drawn sentence: rules that refer to one another twice each would make one that never ends."""


class Reference(NamedTuple):
    """A rule's name in an alternative."""

    name: str


class OptionalPart(NamedTuple):
    """A part that may be left out."""

    items: list


class Sentences:
    """Draws from what the rule `start` expands to: alternatives alike likely, optional parts said half of the time.

    Args:
        rules: alternatives by the rule's name.
        start: a rule's name.

    Raises:
        UserError: a rule is unknown, empty, refers to itself, or is no alternatives in this syntax; a sentence may have
            more words than LONGEST_SENTENCE.
    """

    def __init__(self, rules: Mapping[str, Sequence[str]], start: str):
        self._rules, self._start = parse_rules(rules, start), start
        if (longest := self._longest([Reference(start)], {})) > LONGEST_SENTENCE:
            raise UserError(
                f"rule <{start}>: expected sentences of at most {LONGEST_SENTENCE} words, got up to {longest}; "
                "leave parts out"
            )
        every = _flat([item for alternatives in self._rules.values() for items in alternatives for item in items])
        self.words = frozenset(item for item in every if isinstance(item, str))
        """All words of all rules."""

    def draw(self, generator: np.random.Generator) -> list[str]:
        """A sentence's words; none, if all that it has may be left out."""
        return self._expand([Reference(self._start)], generator)

    def _longest(self, items: list, known: dict[str, int]) -> int:
        """Words of the longest sentence; `known` are those of rules."""
        count = 0
        for item in items:
            if isinstance(item, OptionalPart):
                count += self._longest(item.items, known)
            elif not isinstance(item, Reference):
                count += 1
            else:
                if item.name not in known:
                    known[item.name] = max(self._longest(items, known) for items in self._rules[item.name])
                count += known[item.name]
        return count

    def _expand(self, items: list, generator: np.random.Generator) -> list[str]:
        words = []
        for item in items:
            if isinstance(item, Reference):
                alternatives = self._rules[item.name]
                words += self._expand(alternatives[generator.integers(len(alternatives))], generator)
            elif not isinstance(item, OptionalPart):
                words.append(item)
            elif generator.random() < 0.5:
                words += self._expand(item.items, generator)
        return words


def parse_rules(rules: Mapping[str, Sequence[str]], start: str) -> dict[str, list[list]]:
    """Each rule's alternatives, as items: words, References and OptionalParts.

    Args:
        rules: alternatives by the rule's name.
        start: a rule's name.

    Raises:
        UserError: a rule is unknown, empty, refers to itself, or is no alternatives in this syntax.
    """
    parsed = {name: _parse_rule(name, alternatives) for name, alternatives in rules.items()}
    if start not in parsed:
        raise UserError(f"expected the rule to start from among {_names(parsed)}, got {start!r}; add or rename it")
    _check_references(parsed)
    return parsed


def _parse_rule(name: str, alternatives: Sequence[str]) -> list[list]:
    if not re.fullmatch(NAME, name):
        raise UserError(f"expected rule names without brackets, got {name!r}; they are put around references only")
    if isinstance(alternatives, str) or not alternatives:
        raise UserError(f"rule <{name}>: expected a list of alternatives, at least one, got {alternatives!r}")
    return [_parse(name, alternative) for alternative in alternatives]


def _parse(name: str, text: str) -> list:
    """An alternative's items: words, References, OptionalParts."""
    levels: list[list] = [[]]
    for piece in PIECE.finditer(text):
        if piece["word"]:
            levels[-1].append(piece["word"])
        elif piece["reference"]:
            levels[-1].append(Reference(piece["reference"]))
        elif piece["bracket"] == "[":
            levels.append([])
        elif piece["bracket"] == "]" and len(levels) > 1 and levels[-1]:
            part = OptionalPart(levels.pop())
            levels[-1].append(part)
        else:
            raise UserError(f"rule <{name}>: expected words, <rule> and [part], got {text!r}; see {piece[0].strip()!r}")
    if len(levels) > 1 or not levels[0]:
        raise UserError(f"rule <{name}>: expected words, <rule> and [part], each bracket closed, got {text!r}")
    return levels[0]


def _check_references(rules: dict[str, list[list]]) -> None:
    """That the rules are there which others refer to, and that none refers to itself, even through others."""
    references = {name: _references([item for items in rules[name] for item in items]) for name in rules}
    for name, found in references.items():
        for reference in found:
            if reference not in rules:
                raise UserError(
                    f"rule <{name}> refers to <{reference}>, which isn't among {_names(rules)}; add or rename it"
                )
    try:
        TopologicalSorter(references).prepare()
    except CycleError as error:
        circle = " -> ".join(f"<{name}>" for name in reversed(error.args[1]))
        raise UserError(
            f"expected rules that don't contain themselves, got {circle}; write out as many repetitions as are needed"
        ) from None


def _references(items: list) -> list[str]:
    return [item.name for item in _flat(items) if isinstance(item, Reference)]


def _flat(items: list) -> list:
    """Words and References, those of optional parts too."""
    flat = []
    for item in items:
        flat += _flat(item.items) if isinstance(item, OptionalPart) else [item]
    return flat


def _names(rules: dict[str, list[list]]) -> str:
    return ", ".join(f"<{name}>" for name in rules) or "no rules"
