"""Matches module names against the patterns in a config without backtracking.

PEFT's `rank_pattern`, `alpha_pattern` and `target_modules` are regular expressions, and configs come from strangers:
some expressions keep `re`, and with it the whole interpreter, busy for good. Here all patterns of one entry are one
automaton, which reads a name once, character by character (K. Thompson, CACM 11(6), 1968).
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable

from ..errors import AdapterError, shortened

TOKEN = re.compile(
    r"\\[dDsSwW]|\\[^0-9A-Za-z]|\[\^?]?(?:\\.|[^]\\])*]|\(\?:|[*+?]\??|\{\d+(?:,\d*)?}\??|\((?!\?)|[^\\[{(]"
)
COUNTS = re.compile(r"\{(\d+)(,?)(\d*)}")
DEEPEST = 50
"""How deeply groups may be nested."""

EFFORT = 1_000_000
"""How many states one automaton may make and visit in all: a second or two. Real configs need a third of it at most."""


class Patterns:
    """Several regular expressions, any of which a name may match.

    They may hold characters, classes, groups, `|`, `*`, `+`, `?`, `{m,n}`, `^` and `$`. With `below_any_parent` they
    may match the last parts of a dotted name, as PEFT's rank and alpha patterns do. Raises `AdapterError` for other
    forms, such as look-ahead, and for what would be too much work.
    """

    def __init__(self, source: str, patterns: Iterable[str], below_any_parent: bool = False):
        self.source, self.left = source, EFFORT
        self.states: list[tuple] = []  # (kind, next state, ...); a character's test comes first
        self.reach: dict[tuple[int, str], frozenset[int]] = {}
        self.moves: dict[tuple[int, str], frozenset[int]] = {}
        self.steps: dict[tuple[frozenset[int], str], frozenset[int]] = {}
        start = self._state("fork", *[self._built(pattern, number) for number, pattern in enumerate(patterns)])
        if below_any_parent:
            parents = ("all", [("repeat", _character("."), 0, None), _character("\\.")])
            start = self._state("fork", start, self._states(parents, start))
        self.start = self._reached(start, "start")

    def find(self, name: str) -> int | None:
        """The number of the first pattern that matches the whole of `name`, or None."""
        current = self.start
        for character in name:
            step = (current, character)
            if step not in self.steps:
                self._spend(1 + len(current))
                self.steps[step] = frozenset().union(*[self._moved(state, character) for state in current])
            current = self.steps[step]
        ends = (self.states[end] for state in current for end in self._reached(state, "end"))
        return min((number for kind, number, *_ in ends if kind == "match"), default=None)

    def _moved(self, state: int, character: str) -> frozenset[int]:
        """Where `state` leads by `character`."""
        if (state, character) not in self.moves:
            reached = [self.states[one] for one in self._reached(state)]
            self._spend(1 + len(reached))
            tests = (rest for kind, *rest in reached if kind == "character")
            self.moves[state, character] = frozenset(after for accepts, after in tests if accepts(character))
        return self.moves[state, character]

    def _reached(self, state: int, anchor: str = "") -> frozenset[int]:
        """Where `state` leads before the next character; at an `anchor`, the start or the end of the name, past it."""
        if (state, anchor) not in self.reach:
            found, waiting = {state}, [state]
            while waiting:
                kind, *after = self.states[waiting.pop()]
                new = [state for state in after if state not in found] if kind in ("fork", anchor) else []
                self._spend(1 + len(new))
                found.update(new)
                waiting += new
            self.reach[state, anchor] = frozenset(one for one in found if self.states[one][0] != "fork")
        return self.reach[state, anchor]

    def _built(self, pattern: str, number: int) -> int:
        try:
            self._spend(len(pattern))
            return self._states(_parsed(pattern), self._state("match", number))
        except (ValueError, IndexError, re.error) as error:
            if isinstance(error, AdapterError):
                raise
            raise AdapterError(
                f"{self.source}: the module pattern {shortened(pattern)} cannot be used ({error}). "
                "List the modules by their names instead."
            ) from error

    def _state(self, *state: object) -> int:
        self.states.append(state)
        return len(self.states) - 1

    def _spend(self, effort: int) -> None:
        self.left -= effort
        if self.left < 0:
            raise AdapterError(f"{self.source}: its module patterns take too long to match. List the modules by name.")

    def _states(self, node: tuple, after: int) -> int:
        """The first of the states that match `node` and go on with `after`."""
        self._spend(1)
        kind, *parts = node
        if kind == "all":
            for part in reversed(parts[0]):
                after = self._states(part, after)
            return after
        if kind == "any":
            return self._state("fork", *[self._states(part, after) for part in parts[0]])
        if kind == "repeat":
            return self._repeated(*parts, after)
        return self._state(kind, *parts, after)

    def _repeated(self, node: tuple, low: int, high: int | None, after: int) -> int:
        start = after
        if high is None:
            start = self._state()
            self.states[start] = ("fork", self._states(node, start), after)
        for _ in range((high or low) - low):
            start = self._state("fork", self._states(node, start), after)
        for _ in range(low):
            start = self._states(node, start)
        return start


def _parsed(pattern: str) -> tuple:
    tokens: deque[str] = deque()
    at = 0
    while at < len(pattern):
        token = TOKEN.match(pattern, at)
        if token is None:
            raise ValueError(f"{shortened(pattern[at:])} is not supported")
        tokens.append(token[0])
        at = token.end()
    node = _alternatives(tokens, 0)
    if tokens:
        raise ValueError("it closes a group that is not open")
    return node


def _alternatives(tokens: deque[str], depth: int) -> tuple:
    if depth > DEEPEST:
        raise ValueError(f"its groups are nested more than {DEEPEST} deep")
    branches: list[list[tuple]] = [[]]
    while tokens and tokens[0] != ")":
        token = tokens.popleft()
        if token == "|":
            branches.append([])
        elif token in ("(", "(?:"):
            branches[-1].append(_alternatives(tokens, depth + 1))
            if not tokens or tokens.popleft() != ")":
                raise ValueError("it leaves a group open")
        elif token[0] in "*+?{":
            branches[-1].append(_repeat(branches[-1], token))
        else:
            branches[-1].append({"^": ("start",), "$": ("end",)}.get(token) or _character(token))
    return ("any", [("all", branch) for branch in branches])


def _repeat(branch: list[tuple], token: str) -> tuple:
    if not branch or branch[-1][0] == "repeat":
        raise ValueError(f"{token} repeats nothing")
    node, counts = branch.pop(), COUNTS.match(token)
    if counts is None:
        return ("repeat", node, int(token[0] == "+"), 1 if token[0] == "?" else None)
    low, high = int(counts[1]), int(counts[3]) if counts[3] else None if counts[2] else int(counts[1])
    if high is not None and high < low:
        raise ValueError(f"{token} is reversed")
    return ("repeat", node, low, high)


def _character(token: str) -> tuple:
    literal = token if len(token) == 1 and token != "." else token[1:] if token[0] == "\\" and len(token) == 2 else ""
    if literal and not (token[0] == "\\" and literal.isalpha()):
        return ("character", literal.__eq__)
    return ("character", re.compile(token).match)
