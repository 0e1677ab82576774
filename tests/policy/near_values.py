"""Values close to those that a policy compares a condition key with.

They are computed here from the values as they are written, not by the code that is tested.
"""

import contextlib
import datetime as dt
import decimal
import fractions
import ipaddress
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from random import Random

OTHERS = ["other", "blue"]


def near(dice: Random, comparisons: Sequence[tuple[str, str]]) -> list[str]:
    """Return values that the comparisons of one key (operator and value) may tell apart."""
    found: list[str] = []
    for name, values in _families(comparisons).items():
        found += [*values, *NEIGHBOURS.get(name, _no_others)(values)]
    found += [filled(dice, value) for _, value in comparisons for _ in range(2)]
    return [*dict.fromkeys(found)]


def _families(comparisons: Sequence[tuple[str, str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for operator, value in comparisons:
        name = next((each for each in NEIGHBOURS if each in operator), "String")
        found.setdefault(name, []).append(value)
    return found


def filled(dice: Random, pattern: str) -> str:
    """Return a text that *pattern* matches, with unusual characters for some wildcards."""
    pieces = {"*": ["x", "x", "", "a/b", "X"], "?": ["x", "x", "/", "-"]}

    def replaced(found: re.Match[str]) -> str:
        text = found[0]
        if text.startswith("${"):
            return text[2] if text[2:3] in ("*", "?", "$") else "x"
        return dice.choice(pieces[text])

    return re.sub(r"\$\{[^}]*\}|[*?]", replaced, pattern)


def _no_others(_: Sequence[str]) -> list[str]:
    return []


def _numbers(values: Sequence[str]) -> list[str]:
    numbers = []
    for value in values:
        with contextlib.suppress(ValueError, ZeroDivisionError):
            numbers.append(fractions.Fraction(value))
    tiny = fractions.Fraction(1, 10**30)
    around = [number + step for number in numbers for step in (-1, -tiny, 0, tiny, 1)]
    return [*map(_decimal, [*around, *_middle(numbers)])]


def _middle(ordered: Sequence[fractions.Fraction]) -> list[fractions.Fraction]:
    return [(low + high) / 2 for low, high in itertools.combinations(sorted(set(ordered)), 2)]


def _decimal(number: fractions.Fraction) -> str:
    with decimal.localcontext(decimal.Context(prec=1000)):
        text = f"{decimal.Decimal(number.numerator) / number.denominator:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _dates(values: Sequence[str]) -> list[str]:
    moments = sorted({moment for value in values for moment in _moment(value)})
    steps = [dt.timedelta(**{unit: 1}) for unit in ("microseconds", "seconds", "days")]
    found = [*moments]
    for moment, step in itertools.product(moments, steps):
        for sign in (-1, 1):
            with contextlib.suppress(OverflowError):
                found.append(moment + sign * step)
    found += [low + (high - low) / 2 for low, high in itertools.combinations(moments, 2)]
    return [*map(_utc, found)]


def _moment(value: str) -> Iterator[dt.datetime]:
    with contextlib.suppress(ValueError, OverflowError):
        if re.fullmatch(r"\d+(\.\d+)?", value):
            start = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
            yield start + dt.timedelta(seconds=float(value))
            return
        found = dt.datetime.fromisoformat(value)
        yield found if found.tzinfo else found.replace(tzinfo=dt.UTC)


def _utc(moment: dt.datetime) -> str:
    try:
        return moment.astimezone(dt.UTC).isoformat().replace("+00:00", "Z")
    except OverflowError:  # its year in UTC is 0 or 10000
        return moment.isoformat()


def _addresses(values: Sequence[str]) -> list[str]:
    found = ["8.8.8.8", "10.1.2.3", "2001:db8::1", "ffff::1", "::ffff:10.1.2.3"]
    for value in values:
        with contextlib.suppress(ValueError):
            network = ipaddress.ip_network(value, strict=False)
            found += [str(network[0]), str(network[-1])]
            for address, step in ((network[0], -1), (network[-1], 1)):
                with contextlib.suppress(ValueError):
                    found.append(str(address + step))
    return found


NEIGHBOURS: dict[str, Callable[[Sequence[str]], list[str]]] = {
    "Numeric": _numbers,
    "Date": _dates,
    "IpAddress": _addresses,
    "Bool": lambda _: ["true", "false"],
    "Binary": lambda _: ["b3RoZXI=", "AA==", "QUJD"],
}
"""Functions that return values around others, by a part of the operators' names."""
