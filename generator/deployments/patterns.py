"""AllowedPattern: Java's regular expressions, as languages.

CloudFormation matches the whole value. Look-ahead becomes intersection or complement: a pattern is
translated from its end, so that what follows a look-ahead is known when it is reached. Features
without a translation (back references, look-behind, possessive quantifiers, flags, class
arithmetic) raise an error; the parameter is then unconstrained, and a value that the solver finds
for it is checked against the real pattern.

Source: https://docs.oracle.com/javase/8/docs/api/java/util/regex/Pattern.html
"""

from __future__ import annotations

import functools
import math
import re
from dataclasses import dataclass, field

from generator.deployments.languages import (
    ALL,
    EMPTY,
    NOTHING_MORE,
    Language,
    both,
    characters,
    concat,
    either,
    literal,
    none_of,
    one_of,
    others,
    repeat,
    single_character,
)

REPEAT_MAX = 5000
"""More repetitions than a parameter's value has characters (4,096) are not translated."""
NESTING_MAX = 50


class UntranslatableError(Exception):
    """The pattern has a feature that is not translated, or is not a pattern."""


_DIGIT, _UPPER, _LOWER = (48, 57), (65, 90), (97, 122)
_WORD = characters(_DIGIT, _UPPER, _LOWER, (95, 95))
_SPACE = one_of(" \t\n\x0b\f\r")
_HORIZONTAL = characters(
    *((ord(each), ord(each)) for each in " \t\u00a0\u1680\u180e\u202f\u205f\u3000"),
    (0x2000, 0x200A),
)
_LINE_ENDS = "\n\r\u0085\u2028\u2029"
_BEFORE_END = either(NOTHING_MORE, literal("\r\n"), *map(literal, _LINE_ENDS))
"""What may follow where ``$`` matches: nothing, or the last line's terminator."""
_CLASSES = {"d": characters(_DIGIT), "w": _WORD, "s": _SPACE, "h": _HORIZONTAL}
_ESCAPES = {"t": "\t", "n": "\n", "r": "\r", "f": "\f", "a": "\a", "e": "\x1b"}
_POSIX = {
    "Lower": characters(_LOWER),
    "Upper": characters(_UPPER),
    "Alpha": characters(_UPPER, _LOWER),
    "Digit": characters(_DIGIT),
    "Alnum": characters(_DIGIT, _UPPER, _LOWER),
    "XDigit": characters(_DIGIT, (65, 70), (97, 102)),
    "ASCII": characters((0, 127)),
    "Punct": characters((33, 47), (58, 64), (91, 96), (123, 126)),
    "Print": characters((32, 126)),
    "Graph": characters((33, 126)),
    "Space": _SPACE,
}


@dataclass(frozen=True)
class _Node:
    """A piece of a pattern: its kind, its parts, its own characters or bounds."""

    kind: str
    parts: tuple[_Node, ...] = ()
    language: Language = EMPTY
    bounds: tuple[int, int | None] = (1, 1)

    @property
    def looks_around(self) -> bool:
        """Return whether it depends on the text after it."""
        return self.kind in ("ahead", "not ahead", "start", "end", "very end") or any(
            part.looks_around for part in self.parts
        )


@functools.lru_cache(maxsize=1024)
def language(pattern: str) -> Language:
    """Return every text that *pattern* matches as a whole.

    Raises:
        UntranslatableError: the pattern is not translated.
    """
    parser = _Parser(pattern)
    node = parser.alternatives()
    if parser.at < len(pattern):
        raise UntranslatableError(f"unexpected {pattern[parser.at]!r}")
    return _translated(node, NOTHING_MORE, is_first=True)


def _translated(node: _Node, then: Language, *, is_first: bool) -> Language:  # noqa: PLR0911
    """Return the texts that *node* matches, followed by a text of *then*."""
    if node.kind == "characters":
        return concat(node.language, then)
    if node.kind == "sequence":
        for index, part in reversed([*enumerate(node.parts)]):
            begins = is_first and all(_lengths(each)[1] == 0 for each in node.parts[:index])
            then = _translated(part, then, is_first=begins)
        return then
    if node.kind == "alternatives":
        return either(*(_translated(part, then, is_first=is_first) for part in node.parts))
    if node.kind == "repeat":
        return _repeated(node, then, is_first=is_first)
    if node.kind == "start":
        if not is_first:
            raise UntranslatableError("^ inside the pattern")
        return then
    if node.kind in ("end", "very end"):
        return both(then, _BEFORE_END if node.kind == "end" else NOTHING_MORE)
    ahead = _translated(node.parts[0], ALL, is_first=is_first)
    return both(then, ahead if node.kind == "ahead" else others(ahead))


def _repeated(node: _Node, then: Language, *, is_first: bool) -> Language:
    (inner,), (low, high) = node.parts, node.bounds
    if not inner.looks_around or _sees_itself_alone(inner):
        once = _translated(inner, NOTHING_MORE, is_first=False)
        return concat(repeat(once, low, high), then)
    if (low, high) != (0, 1):
        raise UntranslatableError("look-ahead that repeats")
    return either(then, _translated(inner, then, is_first=is_first))


def _sees_itself_alone(node: _Node) -> bool:
    """Return whether every look-ahead in a sequence sees no further than the sequence goes."""
    if node.kind != "sequence":
        return False
    for index, part in enumerate(node.parts):
        if not part.looks_around:
            continue
        following = sum(_lengths(each)[0] for each in node.parts[index + 1 :])
        is_ahead = part.kind in ("ahead", "not ahead") and not part.parts[0].looks_around
        if not is_ahead or not _lengths(part.parts[0])[1] <= following:
            return False
    return True


def _lengths(node: _Node) -> tuple[float, float]:
    """Return the least and the greatest number of characters that a piece matches."""
    if node.kind == "characters":
        return 1, 1
    if node.kind == "repeat":
        low, high = _lengths(node.parts[0])
        times = math.inf if node.bounds[1] is None else node.bounds[1]
        return low * node.bounds[0], high * times if high and times else 0
    found = [_lengths(part) for part in node.parts]
    if node.kind == "alternatives":
        return min(low for low, _ in found), max(high for _, high in found)
    if node.kind == "sequence":
        return sum(low for low, _ in found), sum(high for _, high in found)
    return 0, 0


@dataclass
class _Parser:
    """Reads one pattern from left to right."""

    pattern: str
    at: int = 0
    depth: int = 0
    ended: _Node = field(default_factory=lambda: _Node("sequence"))

    def peek(self, count: int = 1) -> str:
        return self.pattern[self.at : self.at + count]

    def take(self, count: int = 1) -> str:
        found = self.peek(count)
        if len(found) < count:
            raise UntranslatableError("the pattern ends too early")
        self.at += count
        return found

    def alternatives(self) -> _Node:
        self.depth += 1
        if self.depth > NESTING_MAX:
            raise UntranslatableError("nested too deep")
        found = [self.sequence()]
        while self.peek() == "|":
            self.take()
            found.append(self.sequence())
        self.depth -= 1
        return found[0] if len(found) == 1 else _Node("alternatives", tuple(found))

    def sequence(self) -> _Node:
        found = []
        while self.peek() and self.peek() not in "|)":
            found.append(self.quantified(self.atom()))
        return found[0] if len(found) == 1 else _Node("sequence", tuple(found))

    def quantified(self, node: _Node) -> _Node:
        bounds: tuple[int, int | None]
        if counted := re.compile(r"\{(\d{1,4})(,(\d{1,4})?)?\}").match(self.pattern, self.at):
            low, several, high = counted.groups()
            bounds = (int(low), int(high) if high else None if several else int(low))
            self.at = counted.end()
        elif self.peek() in ("*", "+", "?"):
            bounds = {"*": (0, None), "+": (1, None), "?": (0, 1)}[self.take()]
        else:
            return node
        if self.peek() == "?":  # reluctant: the same texts match as a whole
            self.take()
        if self.peek() in ("+", "*", "{"):
            raise UntranslatableError("a possessive or a second quantifier")
        low_bound, high_bound = bounds
        if max(low_bound, high_bound or 0) > REPEAT_MAX or (high_bound or low_bound) < low_bound:
            raise UntranslatableError("bounds of a quantifier")
        return _Node("repeat", (node,), bounds=bounds)

    def atom(self) -> _Node:
        character = self.take()
        if character == "(":
            return self.group()
        if character == "[":
            return _Node("characters", language=self.character_class())
        if character == ".":
            return _Node("characters", language=none_of(one_of(_LINE_ENDS)))
        if character in "^$":
            return _Node("start" if character == "^" else "end")
        if character == "\\":
            return self.escaped()
        if character in "*+?{":
            raise UntranslatableError("a quantifier without anything to repeat")
        return _Node("characters", language=one_of(character))

    def group(self) -> _Node:
        kind = "group"
        if self.peek() == "?":
            for opening, meaning in (("?:", "group"), ("?=", "ahead"), ("?!", "not ahead")):
                if self.peek(2) == opening:
                    self.take(2)
                    kind = meaning
                    break
            else:
                named = re.compile(r"\?<[A-Za-z][A-Za-z0-9]*>").match(self.pattern, self.at)
                if not named:
                    raise UntranslatableError("look-behind, an atomic group or flags")
                self.at = named.end()
        inner = self.alternatives()
        if self.take() != ")":
            raise UntranslatableError("an unclosed group")
        return inner if kind == "group" else _Node(kind, (inner,))

    def escaped(self) -> _Node:
        following = self.peek()
        if following in ("A", "z", "Z"):
            self.take()
            return _Node({"A": "start", "z": "very end", "Z": "end"}[following])
        return _Node("characters", language=self.escape())

    def escape(self) -> Language:
        name = self.take()
        if name in _CLASSES:
            return _CLASSES[name]
        if name.lower() in _CLASSES:
            return none_of(_CLASSES[name.lower()])
        if name in _ESCAPES:
            return one_of(_ESCAPES[name])
        if name in "pP":
            found = re.compile(r"\{(\w+)\}").match(self.pattern, self.at)
            if not found or found[1] not in _POSIX:
                raise UntranslatableError("a named character class")
            self.at = found.end()
            return _POSIX[found[1]] if name == "p" else none_of(_POSIX[found[1]])
        if name in "xu":
            digits = self.take(2 if name == "x" else 4)
            if not re.fullmatch("[0-9A-Fa-f]+", digits):
                raise UntranslatableError("a code that is not hexadecimal")
            if 0xD800 <= int(digits, 16) <= 0xDFFF:  # noqa: PLR2004 - half of a character
                raise UntranslatableError("a surrogate")
            return one_of(chr(int(digits, 16)))
        if name.isalnum():
            raise UntranslatableError(f"the escape \\{name}")
        return one_of(name)

    def character_class(self) -> Language:
        negated = self.peek() == "^"
        if negated:
            self.take()
        found: list[Language] = []
        while (character := self.take()) != "]" or not found:
            if character in "[&]" and (character != "&" or self.peek() == "&"):
                raise UntranslatableError("an intersection of character classes")
            single = self.escape() if character == "\\" else one_of(character)
            if self.peek() == "-" and self.peek(2) not in ("-]", "-"):
                self.take()
                single = self.character_range(single)
            found.append(single)
        merged = either(*found)
        return none_of(merged) if negated else merged

    def character_range(self, first: Language) -> Language:
        character = self.take()
        if character == "[":
            raise UntranslatableError("an intersection of character classes")
        last = self.escape() if character == "\\" else one_of(character)
        low, high = single_character(first), single_character(last)
        if low is None or high is None or low > high:
            raise UntranslatableError("an invalid character range")
        return characters((low, high))
