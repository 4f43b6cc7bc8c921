"""What a grammar (data_pipeline.grammar) lets say, as an acceptor."""

from collections.abc import Callable, Mapping, Sequence

from data_pipeline.errors import UserError
from data_pipeline.grammar import OptionalPart, Reference, parse_rules
from speech_gru.decoding.acceptor import Acceptor, Network
from speech_gru.decoding.checks import as_tokens


def acceptor_of_grammar(
    rules: Mapping[str, Sequence[str]],
    start: str,
    pronounce: Callable[[str], Sequence[int]],
    separator: int | None = None,
) -> Acceptor:
    """Accepts what the rule `start` expands to.

    >>> acceptor_of_grammar(
    ...     {"command": ["[please] go <side>"], "side": ["left", "right"]},
    ...     "command",
    ...     lambda word: spell(word, table, "words"),
    ... )  # doctest: +SKIP

    Args:
        rules: alternatives by the rule's name, in the syntax of data_pipeline.grammar.
        start: a rule's name.
        pronounce: a word's tokens; `spell` with the model's table, or the look-up in a dictionary of phonemes.
        separator: the token between words, the space of a table of characters; None: there is none.

    Raises:
        UserError: a rule is unknown, empty, refers to itself, or is no alternatives in this syntax; or pronounce's.
    """
    parsed = parse_rules(rules, start)
    builder = _Builder(parsed, pronounce, separator)
    network = builder.network
    source, final = network.state(), network.state()
    network.arc(builder.rule(start, source), None, final)
    return network.determinize(network.without_first(source, final, separator), final)


class _Builder:
    """Puts rules into a network."""

    def __init__(self, rules: dict[str, list[list]], pronounce: Callable[[str], Sequence[int]], separator: int | None):
        self.network = Network()
        self._rules, self._pronounce = rules, pronounce
        self._between = self.network.separator(separator)

    def rule(self, name: str, source: int) -> int:
        """All alternatives from `source` to the state that is returned."""
        end = self.network.state()
        for items in self._rules[name]:
            self.network.arc(self._sequence(items, name, source), None, end)
        return end

    def _sequence(self, items: list, name: str, source: int) -> int:
        for item in items:
            if isinstance(item, Reference):
                source = self.rule(item.name, source)
            elif isinstance(item, OptionalPart):
                end = self._sequence(item.items, name, source)
                self.network.arc(source, None, end)
                source = end
            else:
                source = self.network.path(source, self._between + self._tokens(item, name))
        return source

    def _tokens(self, word: str, name: str) -> tuple[int, ...]:
        try:
            tokens = as_tokens(self._pronounce(word), f"word {word!r}")
        except UserError as error:
            raise UserError(f"rule <{name}>: {error}") from None
        except KeyError:  # of a dictionary
            raise UserError(f"rule <{name}>: no pronunciation for {word!r}; add one or use another word") from None
        if not tokens or set(tokens) & set(self._between):
            raise UserError(f"rule <{name}>: expected tokens of {word!r}, none of them the separator, got {tokens}")
        return tokens
