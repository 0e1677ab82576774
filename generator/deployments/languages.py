"""Sets of texts, as regular languages: what a parameter may be, what a pattern matches.

A language is a regular expression with intersection and complement. It is explored by derivatives:
the derivative of a language by a character is what may follow that character. There are finitely
many derivatives up to the simplifications made here, so emptiness and a shortest text are decided
exactly, by breadth-first search. Equal languages built the same way are one object.

Source: J. A. Brzozowski, "Derivatives of Regular Expressions", Journal of the ACM 11 (1964).
"""

from __future__ import annotations

import functools
import itertools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

LAST = 0x10FFFF
STATES_MAX = 20_000
"""How many derivatives a search may visit. Real patterns need hundreds."""

Ranges = tuple[tuple[int, int], ...]

_PREFERRED = "aA0xXmzZ1fFg9-_/.,:;@=+ *?$\"'\\()[]{}<>|&%!#^~`\u00e9\n\t\r"
"""Preferred characters to represent all those that a language does not distinguish."""


class TooLargeError(Exception):
    """A language has more derivatives than STATES_MAX, so nothing is decided about it."""


class Language:
    """A regular language. Create one with the functions of this module.

    Attributes:
        nullable: whether it contains the empty text.
        cuts: code points at which a range of characters begins or has just ended.
    """

    __slots__ = ("_derivatives", "cuts", "kind", "nullable", "parts")

    def __init__(self, kind: str, parts: tuple[object, ...]) -> None:
        """Remember the operator and the operands."""
        self.kind, self.parts = kind, parts
        self.cuts: frozenset[int]
        operands = [part for part in parts if isinstance(part, Language)]
        self.nullable = _nullable(kind, parts, operands)
        own = {point for low, high in _ranges(self) for point in (low, high + 1)}
        self.cuts = frozenset(own).union(*(part.cuts for part in operands))
        self._derivatives: dict[str, Language] = {}

    def after(self, text: str) -> Language:
        """Return what may follow *text* in this language."""
        language = self
        for character in text:
            language = language.step(character)
            if language is EMPTY:
                break
        return language

    def step(self, character: str) -> Language:
        """Return what may follow one *character*; cached, since searches call this most."""
        found = self._derivatives.get(character)
        if found is None:
            found = self._derivatives[character] = _derivative(self, character)
        return found

    def __contains__(self, text: str) -> bool:
        """Return whether *text* is in it."""
        return self.after(text).nullable


def _nullable(kind: str, parts: tuple[object, ...], operands: Sequence[Language]) -> bool:
    if kind == "repeat":
        return parts[1] == 0 or operands[0].nullable
    if kind == "any":
        return any(part.nullable for part in operands)
    if kind in ("concat", "all"):
        return all(part.nullable for part in operands)
    if kind == "until":
        rest = operands[0].after(str(parts[1]))
        return operands[0].nullable or shortest(rest) is not None
    return kind == "empty text" or (kind == "not" and not operands[0].nullable)


def _ranges(language: Language) -> Ranges:
    return language.parts if language.kind == "characters" else ()  # type: ignore[return-value]


_INTERNED: dict[tuple[object, ...], Language] = {}


def _make(kind: str, *parts: object) -> Language:
    key = (kind, *parts)
    found = _INTERNED.get(key)
    if found is None:
        found = _INTERNED[key] = Language(kind, parts)
    return found


EMPTY = _make("nothing")
"""The language without any text."""
NOTHING_MORE = _make("empty text")
"""The language of the empty text alone."""


def characters(*ranges: tuple[int, int]) -> Language:
    """Return the texts of one character within one of *ranges* (both ends included)."""
    merged: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return _make("characters", *merged) if merged else EMPTY


def one_of(text: str) -> Language:
    """Return the texts of one character of *text*."""
    return characters(*((ord(each), ord(each)) for each in text))


def none_of(language: Language) -> Language:
    """Return the single characters that are not in *language*, a set of characters."""
    ranges, low = [], 0
    for start, end in _ranges(language):
        if low < start:
            ranges.append((low, start - 1))
        low = end + 1
    return characters(*ranges, *([(low, LAST)] if low <= LAST else []))


def single_character(language: Language) -> int | None:
    """Return the code point of a language that is a single character, None for any other."""
    ranges = _ranges(language)
    return ranges[0][0] if len(ranges) == 1 and ranges[0][0] == ranges[0][1] else None


def only_text(language: Language) -> str | None:
    """Return the text of a language that is written as one text, None for any other."""
    text = ""
    while language.kind == "concat":
        head, tail = (part for part in language.parts if isinstance(part, Language))
        code = single_character(head)
        if code is None:
            return None
        text, language = text + chr(code), tail
    code = single_character(language)
    if language is NOTHING_MORE:
        return text
    return None if code is None else text + chr(code)


def concat(*parts: Language) -> Language:
    """Return the texts made of one text of each part, in this order."""
    result = NOTHING_MORE
    for part in reversed(parts):
        result = _concat(part, result)
    return result


def _concat(first: Language, rest: Language) -> Language:
    if EMPTY in (first, rest):
        return EMPTY
    if first is NOTHING_MORE:
        return rest
    if rest is NOTHING_MORE:
        return first
    if first.kind == "concat":
        head, tail = first.parts
        assert isinstance(head, Language)  # noqa: S101 - for the type checker
        assert isinstance(tail, Language)  # noqa: S101
        return _make("concat", head, _concat(tail, rest))
    return _make("concat", first, rest)


def repeat(language: Language, low: int = 0, high: int | None = None) -> Language:
    """Return *low* to *high* texts of *language* in sequence; without *high* there is no limit."""
    if high == 0 or language in (EMPTY, NOTHING_MORE):
        return EMPTY if language is EMPTY and low else NOTHING_MORE
    if (low, high) == (1, 1):
        return language
    return _make("repeat", language, low, -1 if high is None else high)


def _flat(kind: str, languages: Iterable[Language]) -> Iterator[Language]:
    for language in languages:
        if language.kind == kind:
            yield from (part for part in language.parts if isinstance(part, Language))
        else:
            yield language


def either(*languages: Language) -> Language:
    """Return the union."""
    found = {part: None for part in _flat("any", languages) if part is not EMPTY}
    if ALL in found:
        return ALL
    sets = [part for part in found if part.kind == "characters"]
    if len(sets) > 1:
        merged = characters(*itertools.chain.from_iterable(map(_ranges, sets)))
        return either(merged, *(part for part in found if part not in sets))
    return _joined("any", found, EMPTY)


def both(*languages: Language) -> Language:
    """Return the intersection."""
    found = {part: None for part in _flat("all", languages) if part is not ALL}
    return EMPTY if EMPTY in found else _joined("all", found, ALL)


def _joined(kind: str, found: Iterable[Language], neutral: Language) -> Language:
    parts = sorted(found, key=id)
    if not parts:
        return neutral
    return parts[0] if len(parts) == 1 else _make(kind, *parts)


def others(language: Language) -> Language:
    """Return the complement: every text that is not in *language*."""
    if language.kind == "not" and isinstance(language.parts[0], Language):
        return language.parts[0]
    return _make("not", language)


ANY_CHARACTER = characters((0, LAST))
ALL = _make("repeat", ANY_CHARACTER, 0, -1)
"""Every text."""


@functools.lru_cache(maxsize=100_000)
def literal(text: str, *, ignore_case: bool = False) -> Language:
    """Return the language of *text* alone; with *ignore_case*, in any case."""
    return concat(*(_letter(each, ignore_case=ignore_case) for each in text))


def _letter(character: str, *, ignore_case: bool) -> Language:
    # AWS does not say which letters beyond ASCII are equal, so such a letter only matches itself.
    if ignore_case and character.isascii():
        return one_of(character.lower() + character.upper())
    return one_of(character)


def _derivative(language: Language, character: str) -> Language:  # noqa: PLR0911 - cases
    kind, parts = language.kind, language.parts
    operands = [part for part in parts if isinstance(part, Language)]
    if language is ALL:
        return ALL
    if kind == "characters":
        code = ord(character)
        inside = any(low <= code <= high for low, high in _ranges(language))
        return NOTHING_MORE if inside else EMPTY
    if kind == "concat":
        first, rest = operands
        begun = concat(first.after(character), rest)
        return either(begun, rest.after(character)) if first.nullable else begun
    if kind == "repeat":
        inner, low, high = operands[0], int(str(parts[1])), int(str(parts[2]))
        left = None if high == -1 else high - 1
        return concat(inner.after(character), repeat(inner, max(low - 1, 0), left))
    if kind == "until":
        return (
            EMPTY if character == parts[1] else until(operands[0].after(character), str(parts[1]))
        )
    if kind in ("any", "all"):
        join = either if kind == "any" else both
        return join(*(part.after(character) for part in operands))
    return others(operands[0].after(character)) if kind == "not" else EMPTY


def until(language: Language, delimiter: str) -> Language:
    """Return the beginnings of *language*'s texts up to the first *delimiter*, or to the end."""
    return EMPTY if language is EMPTY else _make("until", language, delimiter)


def pieces(language: Language, delimiter: str) -> Language:
    """Return the texts into which *delimiter*, one character, may split a text of *language*.

    Raises:
        TooLargeError: *language* has too many derivatives.
    """
    letters = alphabet(language, one_of(delimiter))
    pending, seen, starts = [language], {language}, {language: None}
    while pending:
        state = pending.pop()
        for character in letters:
            after = state.step(character)
            if character == delimiter and after is not EMPTY:
                starts[after] = None
            if after is not EMPTY and after not in seen:
                seen.add(after)
                pending.append(after)
        if len(seen) > STATES_MAX // 10:
            raise TooLargeError
    return either(*(until(start, delimiter) for start in starts))


@functools.lru_cache(maxsize=100_000)
def alphabet(*languages: Language) -> tuple[str, ...]:
    """Return one character for each set of characters that *languages* do not distinguish."""
    points = sorted({0, LAST + 1}.union(*(language.cuts for language in languages)))
    found = []
    for low, end in itertools.pairwise(point for point in points if point <= LAST + 1):
        usual = next((each for each in _PREFERRED if low <= ord(each) < end), None)
        found.append(usual or chr(low))
    return tuple(sorted(found, key=lambda each: _PREFERRED.find(each) % len(_PREFERRED)))


@functools.lru_cache(maxsize=100_000)
def shortest(language: Language, longest: int | None = None) -> str | None:
    """Return a shortest text of *language*, None if it has none of at most *longest* characters.

    Raises:
        TooLargeError: the search was given up.
    """
    letters = alphabet(language)
    seen = {language}
    level = [("", language)]
    while level:
        following = []
        for text, state in level:
            if state.nullable:
                return text
            if longest is not None and len(text) >= longest:
                continue
            for character in letters:
                after = state.step(character)
                if after is not EMPTY and after not in seen:
                    seen.add(after)
                    following.append((text + character, after))
        if len(seen) > STATES_MAX:
            raise TooLargeError
        level = following
    return None


@functools.lru_cache(maxsize=100_000)
def example(language: Language, longest: int | None = None) -> str | None:
    """Return a text of *language*, not always a shortest one, but found sooner.

    None if it has none of at most *longest* characters.

    Raises:
        TooLargeError: the search was given up.
    """
    letters = alphabet(language)
    seen, path = {language}, [(language, iter(letters))]
    text: list[str] = []
    while path:
        state, untried = path[-1]
        if state.nullable:
            found = "".join(text)
            if longest is None or len(found) <= longest:
                return found
            return shortest(language, longest)
        for character in untried:
            after = state.step(character)
            if after is not EMPTY and after not in seen:
                seen.add(after)
                path.append((after, iter(letters)))
                text.append(character)
                break
        else:
            path.pop()
            del text[-1:]
        if len(seen) > STATES_MAX:
            raise TooLargeError
    return None


def glob(pattern: str, *, ignore_case: bool = False, any_text: Language = ALL) -> Language:
    """Return the language that *pattern* matches: ``*`` any text of *any_text*, ``?`` a character.

    ``${*}``, ``${?}`` and ``${$}`` stand for the characters themselves.

    Source: IAM User Guide, "IAM policy elements: Variables and tags", special characters.
    """
    any_character = ANY_CHARACTER if any_text is ALL else both(any_text, ANY_CHARACTER)
    parts, index = [], 0
    while index < len(pattern):
        character = pattern[index]
        if pattern[index : index + 4] in ("${*}", "${?}", "${$}"):
            parts.append(one_of(pattern[index + 2]))
            index += 4
            continue
        if character == "*":
            parts.append(any_text)
        elif character == "?":
            parts.append(any_character)
        else:
            parts.append(_letter(character, ignore_case=ignore_case))
        index += 1
    return concat(*parts)
