"""How a text of a policy, with symbols in it, compares with a text of a request.

The comparison is exact where possible: known text with symbols by languages, a symbol with a symbol
as an equality, joined texts section by section if separators mark the sections. Otherwise it is
``Free`` within what is necessary: for any values of the symbols, a match needs the subject to be in
the language of all texts that the pattern may become.
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, NamedTuple

from generator.deployments.formulas import (
    Contains,
    Equal,
    Formula,
    Free,
    Is,
    Items,
    Matches,
    Solves,
    Subject,
    Symbol,
    Text,
    every,
    negated,
    some,
)
from generator.deployments.languages import (
    ALL,
    ANY_CHARACTER,
    EMPTY,
    Language,
    TooLargeError,
    both,
    characters,
    concat,
    either,
    glob,
    literal,
    none_of,
    one_of,
    others,
    repeat,
    shortest,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

ARN_SECTIONS = 6  # arn:partition:service:region:account:resource
_WILD = concat(ALL, one_of("*?$"), ALL)
"""Texts with a special meaning in a pattern."""
_IN_SECTION = repeat(none_of(one_of(":")))
_DOLLAR = concat(ALL, one_of("$"), ALL)
_BEGUN_VARIABLE = re.compile(r"\$(\{(?![*?$]\})|$)")
"""A piece of a text that begins a policy variable, which a later piece may complete."""
_ARN = concat(*[repeat(none_of(one_of(":"))), literal(":")] * (ARN_SECTIONS - 1), ALL)
_OTHER_CASES = {"i": "\u0130\u0131", "k": "\u212a", "s": "\u017f"}
"""Characters beyond ASCII of which one case is an ASCII letter."""
_NOT_ASCII = both(ANY_CHARACTER, none_of(characters((0, 127))))
_VARIABLE = re.compile(r"(\$\{(?![*?$]\})[^}]*\})")
_ESCAPE = re.compile(r"\$\{([*?$])\}")


class How(NamedTuple):
    """A way to compare texts."""

    wildcards: bool = False
    ignore_case: bool = False
    by_section: bool = False  # as ArnLike does: a wildcard does not reach across a colon
    variables: bool = False  # ${aws:username} stands for a value of the request

    @property
    def is_pattern(self) -> bool:
        """Return whether ``*`` and ``?`` are wildcards."""
        return self.wildcards or self.by_section


EXACTLY = How()


def is_known(text: Text | Subject) -> bool:
    """Return whether there is no symbol in *text*."""
    return all(isinstance(piece, str) for piece in text)


def known(text: Text | Subject) -> str:
    """Return a text without symbols as a string."""
    return "".join(map(str, text))


def joined(pieces: Sequence[str | Symbol]) -> Text:
    """Return *pieces* with neighbouring known texts joined and empty ones dropped."""
    found: list[str | Symbol] = []
    for piece in pieces:
        if isinstance(piece, str) and found and isinstance(found[-1], str):
            found[-1] += piece
        elif piece != "":
            found.append(piece)
    return tuple(found)


def with_variables(text: Text) -> Text:
    """Return *text* with each policy variable (``${aws:userid}``) replaced by a symbol."""
    pieces: list[str | Symbol] = []
    for piece in text:
        for part in _VARIABLE.split(piece) if isinstance(piece, str) else [piece]:
            if isinstance(part, str) and _VARIABLE.fullmatch(part):
                pieces.append(_policy_variable(part))
            else:
                pieces.append(part)
    return joined(pieces)


@functools.cache
def _policy_variable(name: str) -> Symbol:
    return Symbol(name, why=f"the value of {name} is not known")


def compare(text: Text, subject: Subject, how: How = EXACTLY) -> Formula:
    """Return the formula for *text*, a policy's value, matching *subject*, a request's value."""
    text = with_variables(text)
    if is_known(text):
        found = _known_matches(known(text), subject, how)
    elif how.variables:
        why = Free("a parameter may hold a policy variable, such as ${aws:username}")
        found = some((_text_matches(text, subject, how), every((_may_vary(text), why))))
    else:
        found = _text_matches(text, subject, how)
    return some((found, _unread(subject, how), _unread_pattern(text, how)))


def _may_vary(text: Text) -> Formula:
    """Return whether the symbols of *text* may hold, or complete, a policy variable."""
    if any(isinstance(piece, str) and _BEGUN_VARIABLE.search(piece) for piece in text):
        return True
    symbols = [piece for piece in text if isinstance(piece, Symbol) and not piece.why]
    return some(_matches((each,), _DOLLAR) for each in symbols if not _excludes(each, "$"))


def _unread(subject: Subject, how: How) -> Formula:
    """Return whether *subject* may not be an ARN, which an operator for ARNs needs; a formula."""
    if not how.by_section or len(subject) != 1 or not isinstance(subject[0], Symbol):
        return False
    why = Free("AWS does not say how a text that is not an ARN compares with one")
    return every((negated(_matches(subject, _ARN)), why))


def _unread_pattern(text: Text, how: How) -> Formula:
    """Return whether an operator for ARNs may get *text*, which may not be one, as a formula."""
    if not how.by_section or is_known(text):
        return False
    language = concat(*(glob(p) if isinstance(p, str) else p.language for p in text))
    if is_empty(both(language, others(_ARN))):
        return False
    return Free("AWS does not say how a text that is not an ARN is compared as one")


def _text_matches(text: Text, subject: Subject, how: How) -> Formula:
    necessary = _matches(subject, _superset(text, how))
    if necessary is False:
        return False
    if why := next((piece.why for piece in text if isinstance(piece, Symbol) and piece.why), ""):
        return every((necessary, Free(why)))
    ways = [_aligned(text, subject, how)]
    if how.is_pattern:
        symbols = [piece for piece in text if isinstance(piece, Symbol)]
        wild = some(_matches((symbol,), _WILD) for symbol in symbols)
        ways.append(every((wild, Solves(text, subject, how.ignore_case))))
    return every((necessary, some(ways)))


def compare_items(items: Items, subject: Subject, how: How = EXACTLY) -> Formula:
    """Return whether one of *items* matches *subject*, as a formula."""
    found = Contains(items, subject, how.ignore_case)
    possible = ALL if how.ignore_case else items.item.language
    ways = [every((_matches(subject, possible), found)), _unread(subject, how)]
    ways.append(_unread_pattern((items.item,), how))
    if how.variables and not _excludes(items.item, "$"):
        ways.append(Free(f"{items.name} may hold a policy variable, such as ${{aws:username}}"))
    if how.is_pattern and not is_empty(both(items.item.language, _WILD)):
        ways.append(Solves((items.item,), subject, how.ignore_case))
    return some(ways)


def equal_texts(one: Text, other: Text) -> Formula:
    """Return whether two texts are equal; wildcards and variables have no special meaning."""
    one, other = joined(one), joined(other)
    if is_known(one) and is_known(other):
        return known(one) == known(other)
    if is_known(one):
        one, other = other, one
    if len(one) == 1 and not is_known(one) and "${" not in str(other):
        return compare(other, one)
    if is_known(other) and "${" not in known(other):
        symbols = [piece for piece in one if isinstance(piece, Symbol)]
        if len(symbols) == 1:
            index = one.index(symbols[0])
            before, behind = known(one[:index]), known(one[index + 1 :])
            text = known(other)
            fits = text.startswith(before) and text.endswith(behind)
            if not fits or len(text) < len(before) + len(behind):
                return False
            return compare((text[len(before) : len(text) - len(behind)],), (symbols[0],))
    return Free("two joined texts are compared")


def is_empty(language: Language, longest: int | None = None) -> bool:
    """Return whether *language* certainly has no text of at most *longest* characters."""
    try:
        return shortest(language, longest) is None
    except TooLargeError:
        return False


def pattern_language(pattern: str, how: How) -> Language | None:
    """Return the language that a known *pattern* matches, None if it matches nothing known here."""
    if how.by_section:
        sections = pattern.split(":", ARN_SECTIONS - 1)
        if len(sections) < ARN_SECTIONS:
            return None
        parts = [glob(section, any_text=_IN_SECTION) for section in sections[:-1]]
        colons = [each for part in parts for each in (part, literal(":"))]
        return concat(*colons, glob(sections[-1]))
    if how.wildcards:
        return glob(pattern, ignore_case=how.ignore_case)
    return literal(_unescaped(pattern), ignore_case=how.ignore_case)


def _unescaped(pattern: str) -> str:
    return _ESCAPE.sub(r"\1", pattern)


def _superset(text: Text, how: How) -> Language:
    """Return everything that *text* may match, for any values of its symbols."""
    parts = []
    for piece in text:
        if isinstance(piece, str):
            known_part = piece if how.is_pattern else _unescaped(piece)
            wild = how.is_pattern
            parts.append(
                glob(known_part, ignore_case=how.ignore_case)
                if wild
                else literal(known_part, ignore_case=how.ignore_case)
            )
        else:
            parts.append(ALL if how.is_pattern or how.ignore_case else piece.language)
    return concat(*parts)


def _matches(subject: Subject, language: Language) -> Formula:
    """Return whether *subject* is in *language*, as a formula; decided here if that is easy."""
    if language is ALL or language is EMPTY:
        return language is ALL
    rest = list(subject)
    while rest and isinstance(rest[0], str):
        language = language.after(str(rest.pop(0)))
        if language is EMPTY or language is ALL:
            return language is ALL
    return Matches(tuple(rest), language) if rest else language.nullable


def _known_matches(pattern: str, subject: Subject, how: How) -> Formula:
    language = pattern_language(pattern, how)
    if language is None:
        return Free(f"{pattern!r} is not an ARN")
    wild = how.is_pattern and re.search(r"[*?$]", pattern)
    if not wild and not how.ignore_case:
        return _is_exactly(_unescaped(pattern), subject)
    matched = _matches(subject, language)
    if not how.ignore_case or matched is True or (pattern.isascii() and _is_ascii(subject)):
        return matched
    why = Free(f"AWS does not say which letters beyond ASCII equal those of {pattern!r}")
    return some((matched, every((_matches(subject, _in_other_cases(pattern, how)), why))))


def _is_ascii(subject: Subject) -> bool:
    """Return whether *subject* has certainly no character of _OTHER_CASES."""
    others_ = "".join(_OTHER_CASES.values())
    return all(
        part.isascii() if isinstance(part, str) else all(_excludes(part, each) for each in others_)
        for part in subject
    )


@functools.cache
def _in_other_cases(pattern: str, how: How) -> Language:
    """Return what *pattern* matches if letters beyond ASCII may equal any other letter."""
    parts = []
    for each in re.findall(r"\$\{[*?$]\}|.", pattern, re.DOTALL):
        if not each.isascii():
            parts.append(ANY_CHARACTER)
        elif each.lower() in _OTHER_CASES:
            parts.append(either(literal(each, ignore_case=True), _NOT_ASCII))
        elif how.is_pattern:
            parts.append(glob(each, ignore_case=True))
        else:
            parts.append(literal(_unescaped(each), ignore_case=True))
    return concat(*parts)


def _is_exactly(text: str, subject: Subject) -> Formula:
    """Return whether *subject* equals *text*, if separators show which piece each symbol is."""
    tests: list[Formula] = []
    for index, part in enumerate(subject):
        if isinstance(part, str):
            if not text.startswith(part):
                return False
            text = text[len(part) :]
            continue
        following = subject[index + 1 : index + 2]
        if not following:
            end = len(text)
        elif isinstance(following[0], str) and _excludes(part, following[0][0]):
            end = text.find(following[0][0])
        else:
            return every((*tests, _matches(subject[index:], literal(text))))
        if end < 0 or text[:end] not in part.language:
            return False
        tests.append(Is(part, text[:end]))
        text = text[end:]
    return every(tests) if not text else False


@functools.cache
def _excludes(symbol: Symbol, character: str) -> bool:
    return is_empty(both(symbol.language, concat(ALL, one_of(character), ALL)))


def _aligned(text: Text, subject: Subject, how: How) -> Formula:  # noqa: PLR0911 - cases
    """Return whether a text with symbols matches, compared piece by piece from the left."""
    if is_known(text) and how.by_section:
        return _rest_by_section(known(text), subject)
    if is_known(text):
        return _known_matches(known(text), subject, how) if subject or text else True
    if is_known(subject) and (solved := _solved(text, known(subject), how)) is not None:
        return solved
    if not subject or not text:
        return _solves(text, subject, how)
    piece, part = text[0], subject[0]
    if isinstance(piece, str) and isinstance(part, str):
        return _after_common_text(text, subject, how)
    if piece is part:
        return _aligned(text[1:], subject[1:], how)
    if isinstance(part, Symbol):
        section, rest = _section(text, subject)
        if section is not None:
            return every((_one_symbol(section, part, how), _aligned(rest, subject[1:], how)))
    return _solves(text, subject, how)


def _solves(text: Text, subject: Subject, how: How) -> Formula:
    """Leave open whether *text* equals *subject*, if its symbol may have a value for that."""
    found = Solves(text, subject, how.ignore_case)
    if len(text) != 1 or not isinstance(text[0], Symbol) or how.ignore_case:
        return found
    parts = [literal(part) if isinstance(part, str) else part.language for part in subject]
    return every((_matches((text[0],), concat(*parts)), found))


def _rest_by_section(pattern: str, subject: Subject) -> Formula:
    """Return whether the rest of an ARN matches: a wildcard stays within its section."""
    colons = sum(part.count(":") for part in subject if isinstance(part, str))
    sections = pattern.split(":", colons)
    if len(sections) <= colons:
        return False
    parts = [glob(section, any_text=_IN_SECTION) for section in sections[:-1]]
    joined_parts = [each for part in parts for each in (part, literal(":"))]
    return _matches(subject, concat(*joined_parts, glob(sections[-1])))


def _solved(text: Text, wanted: str, how: How) -> Formula | None:
    """Return whether *text*, which has one symbol, equals *wanted*; None if that is not simple."""
    symbols = [piece for piece in text if isinstance(piece, Symbol)]
    texts = [piece for piece in text if isinstance(piece, str)]
    wild = how.is_pattern
    if len(symbols) != 1 or any(
        "$" in each or (wild and re.search(r"[*?]", each)) for each in texts
    ):
        return None
    index = text.index(symbols[0])
    before, behind = known(text[:index]), known(text[index + 1 :])
    inner = wanted[len(before) : len(wanted) - len(behind)]
    whole = f"{before}{inner}{behind}"
    same = whole.lower() == wanted.lower() if how.ignore_case else whole == wanted
    if not same:
        return False
    return _matches((symbols[0],), literal(inner, ignore_case=how.ignore_case))


def _after_common_text(text: Text, subject: Subject, how: How) -> Formula:
    said, held = str(text[0]), str(subject[0])
    length = min(len(said), len(held))
    wild = how.is_pattern
    if wild and re.search(r"[*?$]", said[:length]):
        if how.by_section and (aligned := _by_section(text, subject, how)) is not None:
            return aligned
        return Solves(text, subject, how.ignore_case)
    same = said[:length].lower() == held[:length].lower()
    if not same or (said[:length] != held[:length] and not how.ignore_case):
        return False
    left, right = joined((said[length:], *text[1:])), joined((held[length:], *subject[1:]))
    return _aligned(left, right, how)


def _by_section(text: Text, subject: Subject, how: How) -> Formula | None:
    """Compare up to the next colon on both sides; None if that cannot be determined."""
    said, held = str(text[0]), str(subject[0])
    return (
        _aligned(joined((said[1:], *text[1:])), joined((held[1:], *subject[1:])), how)
        if said[0] == held[0] and not re.search(r"[*?$]", said[0])
        else None
    )


def _section(text: Text, subject: Subject) -> tuple[Text | None, Text]:
    """Split off the part of *text* that is compared with the subject's first symbol."""
    following = subject[1:2]
    if not following:
        return text, ()
    if not isinstance(following[0], str):
        return None, ()
    separator = following[0][0]
    if not isinstance(subject[0], Symbol) or not _excludes(subject[0], separator):
        return None, ()
    section: list[str | Symbol] = []
    for index, piece in enumerate(text):
        if isinstance(piece, Symbol):
            if not _excludes(piece, separator):
                return None, ()
            section.append(piece)
        elif separator in piece:
            before, _, behind = piece.partition(separator)
            return joined((*section, before)), joined((separator + behind, *text[index + 1 :]))
        else:
            section.append(piece)
    return None, ()


def _one_symbol(section: Text, symbol: Symbol, how: How) -> Formula:
    """Return whether *section* matches the whole of *symbol*, as a formula."""
    if is_known(section):
        return _known_matches(known(section), (symbol,), How(how.is_pattern, how.ignore_case))
    symbols = [piece for piece in section if isinstance(piece, Symbol)]
    texts = [piece for piece in section if isinstance(piece, str)]
    wild = how.is_pattern and any(re.search(r"[*?$]", text) for text in texts)
    if len(symbols) > 1 or wild:
        return Solves(section, (symbol,), how.ignore_case)
    other = symbols[0]
    if other is symbol and not texts:
        return True
    index = section.index(other)
    before, behind = known(section[:index]), known(section[index + 1 :])
    return Equal(symbol, _unescaped(before), other, _unescaped(behind), how.ignore_case)
