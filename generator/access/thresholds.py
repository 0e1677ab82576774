"""Values that the operators for numbers, dates, addresses, booleans and binary values distinguish.

They are parsed as ``generator.policy.operators`` parses them, so that a value lies between two
thresholds here exactly if it does there.
"""

from __future__ import annotations

import datetime as dt
import decimal
import ipaddress
import itertools
from typing import TYPE_CHECKING

from generator.policy.operators import parse_date, parse_number

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

FAMILIES = ("Numeric", "Date", "Bool", "IpAddress", "Binary")
"""Prefixes of the operators that read a value as something other than text."""


def family(operator: str) -> str:
    """Return which of FAMILIES *operator* belongs to; empty if to none."""
    return next((name for name in FAMILIES if operator.startswith(name)), "")


def candidates(comparisons: Iterable[tuple[str, str]]) -> list[str]:
    """Return values that represent every result of *comparisons*: operators and their values.

    A value that an operator cannot read is not a candidate: AWS does not document the result.
    """
    grouped: dict[str, list[str]] = {}
    for operator, expected in comparisons:
        grouped.setdefault(family(operator), []).append(expected)
    found: list[str] = []
    for name, values in grouped.items():
        if name != "IpAddress":  # not an address itself: its first and last represent it
            found += values
        found += _REPRESENTATIVES.get(name, _nothing)(values)
    return [*dict.fromkeys(found)]


def _nothing(_: Sequence[str]) -> list[str]:
    return []


def _numbers(values: Sequence[str]) -> list[str]:
    """Return the numbers between, below and above *values*, exactly."""
    numbers = []
    for value in values:
        try:
            numbers.append(parse_number(value))
        except ValueError:
            continue
    ordered = sorted(set(numbers))
    if not ordered:
        return []
    digits = sum(map(len, values)) + 10  # enough for every sum to be exact
    with decimal.localcontext(decimal.Context(prec=digits)):
        middle = [(low + high) / 2 for low, high in itertools.pairwise(ordered)]
        return [f"{number:f}" for number in (ordered[0] - 1, *middle, ordered[-1] + 1)]


def _dates(values: Sequence[str]) -> list[str]:
    """Return the moments between, before and after *values*."""
    moments = []
    for value in values:
        try:
            moments.append(parse_date(value))
        except (ValueError, OverflowError):
            continue
    ordered = sorted(set(moments))
    if not ordered:
        return []
    around = [low + (high - low) / 2 for low, high in itertools.pairwise(ordered)]
    for moment, sign in ((ordered[0], -1), (ordered[-1], 1)):
        for step in (dt.timedelta(seconds=1), dt.timedelta(microseconds=1)):
            try:
                around.append(moment + sign * step)
            except OverflowError:  # before the year 1 or after 9999
                continue
            break
    return [_utc(moment) for moment in around]


def _utc(moment: dt.datetime) -> str:
    try:
        return moment.astimezone(dt.UTC).isoformat().replace("+00:00", "Z")
    except OverflowError:  # it has no year in that time zone
        return moment.isoformat()


def _addresses(values: Sequence[str]) -> list[str]:
    found = ["203.0.113.99", "2001:db8:ffff::99"]
    for value in values:
        try:
            network = ipaddress.ip_network(value, strict=False)
        except ValueError:
            continue
        found += [str(network[0]), str(network[-1])]
        for address, step in ((network[0], -1), (network[-1], 1)):
            try:
                found.append(str(address + step))
            except ipaddress.AddressValueError:
                continue
    return found


def _booleans(_: Sequence[str]) -> list[str]:
    return ["true", "false"]


def _binaries(_: Sequence[str]) -> list[str]:
    return ["b3RoZXI=", "AA=="]


_REPRESENTATIVES: dict[str, Callable[[Sequence[str]], list[str]]] = {
    "Numeric": _numbers,
    "Date": _dates,
    "Bool": _booleans,
    "IpAddress": _addresses,
    "Binary": _binaries,
}
