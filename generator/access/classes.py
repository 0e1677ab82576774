"""Divides a symbol's values into finitely many classes that a problem can distinguish.

A symbol is compared with known texts, with languages and with thresholds. Values for which all of
these comparisons have the same results are in one class, so a request is described by the classes
of its symbols. Each known text is a class of its own. The rest is divided by following all
languages at once, character by character: the state of each language afterwards is the class's
signature. Every class has a shortest member, its witness. Because the classes are complete, the
solver's "no" is a proof.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from generator.deployments.languages import (
    ALL,
    EMPTY,
    Language,
    alphabet,
    both,
    either,
    literal,
    others,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from generator.deployments.formulas import Symbol

WORK_MAX = 400_000
"""Derivatives that one search may take before it is given up.

It bounds the time of a question, equally on every machine. After that, nothing is proved.
"""

UNREADABLE = "?"
"""A value that is not a number, date, boolean, address or binary value."""

State = tuple[Language, ...]


@dataclass(frozen=True)
class Context:
    """A language at the position of a symbol, and the known text after the symbol."""

    language: Language
    behind: str
    is_last: bool

    def after(self, text: str) -> Language:
        """Return the language's state after the symbol's value and the known text."""
        return self.settled(self.language.after(text))

    def settled(self, language: Language) -> Language:
        """Return the state of *language*, which has read the symbol, after the known text."""
        rest = language.after(self.behind)
        if self.is_last:  # only whether it ends here matters
            return ALL if rest.nullable else EMPTY
        return rest


@dataclass(frozen=True, eq=False)
class ValueClass:
    """Values of a symbol for which all comparisons have the same result."""

    witness: str
    is_literal: bool
    signature: State


@dataclass
class Classes:
    """The classes of one symbol."""

    symbol: Symbol
    contexts: list[Context] = field(default_factory=list)
    literals: list[str] = field(default_factory=list)
    members: list[ValueClass] = field(default_factory=list)
    complete: bool = True
    has_unreadable: bool = False
    _numbers: dict[str, int] = field(default_factory=dict)
    _signatures: dict[str, State] = field(default_factory=dict)

    def divide(self, candidates: Iterable[str] = (), *, as_text: bool = True) -> None:
        """Find the classes.

        Args:
            candidates: values that represent every result of the operators that read the value as
                a number, a date and so on.
            as_text: whether the value is compared as a text, too. Without that, all values other
                than *candidates* and those that are known are in one class.
        """
        symbol = self.symbol
        self._signatures.clear()  # they depend on the contexts
        known = [*dict.fromkeys([*candidates, *self.literals])]
        self.literals = [text for text in known if self._fits(text)]
        self.members = [
            ValueClass(text, True, self.signature(text))  # noqa: FBT003 - a literal
            for text in self.literals
        ]
        if not as_text:
            self.has_unreadable = not symbol.is_typed
            if self.has_unreadable:  # any value that cannot be read represents all of them
                unreadable = ValueClass(UNREADABLE, False, self.signature(UNREADABLE))  # noqa: FBT003 - not a literal
                self.members.append(unreadable)
            return
        rest = both(symbol.language, others(either(*map(literal, self.literals))))
        found: dict[State, str] = {}
        languages = (rest, *(context.language for context in self.contexts))

        def visit(text: str, state: State) -> bool:
            if state[0].nullable:
                signature = tuple(
                    context.settled(language)
                    for language, context in zip(state[1:], self.contexts, strict=True)
                )
                found.setdefault(signature, text)
            return bool(found) and not self.contexts

        self.complete = explore(languages, visit, symbol.longest)
        for signature, text in found.items():
            usual = (each for each in symbol.usual if each in rest and each not in self.literals)
            usual_here = (each for each in usual if self.signature(each) == signature)
            self.members.append(ValueClass(next(usual_here, text), False, signature))  # noqa: FBT003 - not a literal

    def _fits(self, text: str) -> bool:
        longest = self.symbol.longest
        return text in self.symbol.language and (longest is None or len(text) <= longest)

    def signature(self, text: str) -> State:
        """Return the state of each language after *text*."""
        known = self._signatures.get(text)
        if known is None:
            known = tuple([context.after(text) for context in self.contexts])
            self._signatures[text] = known
        return known

    def number_of(self, text: str) -> int | None:
        """Return the number of the class that consists of *text* alone."""
        if not self._numbers:
            literals = (member for member in self.members if member.is_literal)
            self._numbers = {member.witness: number for number, member in enumerate(literals)}
        return self._numbers.get(text)

    def contains(self, number: int, text: str) -> bool:
        """Return whether *text* is in the class with this *number*."""
        member = self.members[number]
        if member.is_literal:
            return text == member.witness
        return (
            self._fits(text)
            and text not in self.literals
            and self.signature(text) == member.signature
        )

    def search(self, number: int, within: Language) -> str | None:
        """Return a member of a class that is in *within*; None if none is."""
        member = self.members[number]
        choices = [member.witness, *self.symbol.usual]
        for text in choices:
            if text in within and self.contains(number, text):
                return text
        if member.is_literal:
            return None
        excluded = either(*map(literal, self.literals))
        wanted = both(self.symbol.language, within, others(excluded))
        result: list[str] = []

        def visit(text: str, state: State) -> bool:
            if state[0].nullable and self.signature(text) == member.signature:
                result.append(text)
            return bool(result)

        languages = (wanted, *(context.language for context in self.contexts))
        explore(languages, visit, self.symbol.longest)
        return result[0] if result else None


def have_common(
    said: tuple[Classes, int], held: tuple[Classes, int], before: str = "", behind: str = ""
) -> bool:
    """Return whether a member of *said*, between two texts, may be a member of *held*.

    Neither class is that of a single known text.
    """
    inner, outer = said[0], held[0]
    wanted, signature = inner.members[said[1]].signature, outer.members[held[1]].signature
    stripped = [
        text[len(before) : len(text) - len(behind)]
        for text in outer.literals
        if text.startswith(before) and text.endswith(behind)
    ]
    known = either(*map(literal, [*inner.literals, *stripped]))
    around = outer.symbol.language.after(before)
    first = both(inner.symbol.language, others(known))
    found: list[str] = []

    def visit(text: str, state: State) -> bool:
        whole = f"{before}{text}{behind}"
        if (
            state[0].nullable
            and state[1].after(behind).nullable
            and inner.signature(text) == wanted
            and outer.signature(whole) == signature
        ):
            found.append(text)
        return bool(found)

    contexts = [context.language for context in inner.contexts]
    contexts += [context.language.after(before) for context in outer.contexts]
    most = WORK_MAX // 10  # for each pair of classes; without an answer, assume a common member
    complete = explore((first, around, *contexts), visit, inner.symbol.longest, most)
    return bool(found) or not complete


def explore(
    languages: State,
    visit: Callable[[str, State], bool],
    longest: int | None = None,
    most: int = WORK_MAX,
) -> bool:
    """Visit a shortest text for each reachable state until *visit* says to stop.

    The first language bounds the search: texts that none of its texts begins with are skipped.

    Returns:
        False if the search was given up because there are too many states.
    """
    letters = alphabet(*languages)
    work = 0
    seen = {languages}
    level: list[tuple[str, State]] = [("", languages)] if languages[0] is not EMPTY else []
    while level:
        following = []
        for text, state in level:
            if visit(text, state):
                return True
            if longest is not None and len(text) >= longest:
                continue
            for character in letters:
                first = state[0].step(character)
                if first is EMPTY:
                    continue
                work += len(state)
                if work > most:
                    return False
                after = (first, *[language.step(character) for language in state[1:]])
                if after not in seen:
                    seen.add(after)
                    following.append((text + character, after))
        level = following
    return True
