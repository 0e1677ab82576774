"""Random requests for plaintext whose callers and values are close to those in a policy."""

import contextlib
import datetime as dt
import ipaddress
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from generator.access.attestations import worth
from generator.access.requests import KNOWN_KEYS
from generator.policy.evaluation import Verdict, evaluate
from generator.policy.operators import Values, listed
from generator.policy.request import Attestation, Grant, Kind, Principal, Request
from tests.policy.near_values import OTHERS, filled, near

Json = dict[str, Any]

OWNER, HOST, OTHER, FRESH = "111122223333", "444455556666", "777788889999", "123456789012"
UNNAMED, ZEROS = "ef" * 48, "0" * 96
KEY_ID = "11111111-2222-3333-4444-555555555555"
PARTITIONS = {"aws": "eu-west-1", "aws-cn": "cn-north-1", "aws-us-gov": "us-gov-west-1"}
DECRYPTING = ("kms:Decrypt", "kms:Decrypt", "kms:ReEncryptFrom")
DERIVING = ("kms:DeriveSharedSecret",)
ALLOW_ALL: Json = {
    "Version": "2012-10-17",
    "Statement": {"Effect": "Allow", "Action": "*", "Resource": "*"},
}
IDENTITY = re.compile(r"(?:[!-~]{1,510}/)?[\w+=,.@-]{1,64}", re.ASCII)
"""A user's or role's path after its first slash, and its name: what IAM accepts."""
SESSION = re.compile(r"[\w+=,.@-]{2,64}", re.ASCII)
TRIES_FOR_A_GRANT = 12


def _any_text(_: str) -> bool:
    return True


def _is_address(text: str) -> bool:
    with contextlib.suppress(ValueError):
        return bool(ipaddress.ip_address(text))
    return False


def _is_date(text: str) -> bool:
    with contextlib.suppress(ValueError):
        return bool(dt.datetime.fromisoformat(text).tzinfo)
    return False


def _is_number(text: str) -> bool:
    return re.fullmatch(r"\d+(\.\d+)?", text) is not None


def _is_boolean(text: str) -> bool:
    return text in ("true", "false")


TYPES: dict[str, Callable[[str], bool]] = {
    **dict.fromkeys(("aws:sourceip", "aws:vpcsourceip"), _is_address),
    **dict.fromkeys(("aws:currenttime", "aws:tokenissuetime"), _is_date),
    **dict.fromkeys(("aws:multifactorauthpresent", "aws:viaawsservice"), _is_boolean),
    "aws:multifactorauthage": _is_number,
}
"""Which values AWS gives to condition keys of its own.

Source: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_condition-keys.html
"""


@dataclass(frozen=True)
class Attempt:
    """A request, and the grant that its caller has."""

    request: Request
    grants: Sequence[Grant] = ()


def attempts(  # noqa: PLR0913, PLR0917 - what a request depends on
    dice: Random,
    policy: Json,
    owner: str,
    count: int,
    actions: Sequence[str] = DECRYPTING,
    place: tuple[str, str] | None = None,
) -> Iterator[Attempt]:
    """Yield requests for plaintext; for some, the caller has a grant that somebody may create.

    They are for a key in *place*, a partition and a region, or wherever KMS stores the policy.
    """
    places = [
        (partition, region)
        for partition in partitions(policy)
        for region in (PARTITIONS[partition], PARTITIONS[partition][:-1] + "9")
        if place in (None, (partition, region))
    ]
    if not places or not actions:
        return
    requests = Requests(dice, policy, owner, places)
    granting = any(requests.may_create_a_grant() for _ in range(TRIES_FOR_A_GRANT))
    for _ in range(count):
        request = requests.draw(dice.choice(actions))
        if granting and request.principal.names and dice.random() < 0.25:
            operations = [action.partition(":")[2] for action in dict.fromkeys(actions)]
            yield Attempt(request, [Grant(request.principal.names[0], operations)])
        else:
            yield Attempt(request)


def partitions(policy: Json) -> list[str]:
    """Return the partitions in which KMS stores *policy*: those of the principals it names."""
    named = set()
    for statement in _statements(policy):
        for element in ("Principal", "NotPrincipal"):
            text = json.dumps(statement.get(element, ""))
            named |= set(re.findall(r"arn:([a-z-]+):iam:", text))
    return [*PARTITIONS] if not named else [*named] if len(named) == 1 else []


@dataclass
class Requests:
    """Draws requests for a key with *policy*, in one of *places*: a partition and a region."""

    dice: Random
    policy: Json
    owner: str
    places: Sequence[tuple[str, str]]
    texts: list[str] = field(init=False)
    accounts: list[str] = field(init=False)
    names: list[str] = field(init=False)
    callers: list[tuple[str, str, str]] = field(init=False)
    digests: list[str] = field(init=False)
    values: dict[str, tuple[list[str], list[str]]] = field(init=False)

    def __post_init__(self) -> None:
        """Collect what the policy names."""
        self.texts = [*_texts(self.policy["Statement"])]
        named = {text for each in self.texts for text in re.findall(r"(?<!\d)\d{12}(?!\d)", each)}
        self.accounts = sorted({self.owner, FRESH, *named})
        self.callers = [*dict.fromkeys(self._named_callers())]
        self.names = sorted({"example", "admin", "x", *(name for _, _, name in self.callers)})
        digests = {_digest(text) for text in self.texts if re.fullmatch(r"[0-9A-Fa-f*?]+", text)}
        self.digests = sorted({*(each for each in digests if len(each) == 96), UNNAMED, ZEROS})
        self.values = {}
        by_key: dict[str, list[tuple[str, str]]] = {}
        for operator, key, values in comparisons(self.policy):
            by_key.setdefault(key, []).extend((operator, value) for value in values)
        for key, found in by_key.items():
            if not KNOWN_KEYS.fullmatch(key):
                operators = [*dict.fromkeys(operator for operator, _ in found)]
                possible = [*filter(TYPES.get(key, _any_text), [*near(self.dice, found), *OTHERS])]
                self.values[key] = (operators, possible)

    def draw(self, action: str) -> Request:
        """Return a request for *action*."""
        dice = self.dice
        partition, region = dice.choice(self.places)
        return Request(
            action,
            self._caller(partition),
            self.owner,
            f"arn:{partition}:kms:{region}:{self.owner}:key/{KEY_ID}",
            self._attestation(),
            {key: self._value(*found) for key, found in self.values.items()},
            context_is_complete=True,
        )

    def may_create_a_grant(self) -> bool:
        """Return whether a random caller may create a grant."""
        request = self.draw("kms:CreateGrant")
        return is_allowed(Attempt(request), self.policy)

    def _named_callers(self) -> Iterator[tuple[str, str, str]]:
        """Yield the account, kind and name of callers that match a text of the policy."""
        for text in self.texts:
            arn = re.fullmatch(
                r"[^:]*:[^:]*:[^:]*:[^:]*:([^:]*):([a-z?*-]+)/(.+)", text, re.IGNORECASE
            )
            for _ in range(3 if arn else 0):
                assert arn is not None
                account = filled(self.dice, arn[1])
                if not re.fullmatch(r"\d{12}", account):
                    start = re.sub(r"\D.*", "", arn[1])
                    account = next((a for a in (HOST, OTHER) if a.startswith(start)), HOST)
                yield account, arn[2], filled(self.dice, arn[3])

    def _caller(self, partition: str) -> Principal:
        dice = self.dice
        kind = dice.choice([Kind.ROLE] * 4 + [Kind.USER] * 2 + [*Kind])
        account, name = dice.choice(self.accounts), dice.choice(self.names)
        if self.callers and dice.random() < 0.4:
            account, resource, name = dice.choice(self.callers)
            kinds = {"user": Kind.USER, "us?r": Kind.USER, "federated-user": Kind.FEDERATED}
            kind = kinds.get(resource, Kind.ROLE)
        if IDENTITY.fullmatch(name) is None:
            name = "example"
        iam, sts = f"arn:{partition}:iam::{account}:", f"arn:{partition}:sts::{account}:"
        if kind is Kind.ROLE:
            role = name.rpartition("/")[2]
            names = (f"{iam}role/{name}", f"{sts}assumed-role/{role}/session")
            return Principal(kind, account, names)
        if kind is Kind.SERVICE:
            return Principal(kind, "", (dice.choice(["ec2.amazonaws.com", "s3.amazonaws.com"]),))
        if kind is Kind.ANONYMOUS:
            return Principal(kind, "", ())
        last = name.rpartition("/")[2]
        own = {
            Kind.ROOT: f"{iam}root",
            Kind.USER: f"{iam}user/{name}",
            Kind.FEDERATED: f"{sts}federated-user/{last if SESSION.fullmatch(last) else 'audit'}",
        }[kind]
        return Principal(kind, account, (own,))

    def _value(self, operators: list[str], values: list[str]) -> Values:
        dice = self.dice
        if dice.random() < 0.3 or not values:
            return ()
        if not any(operator.startswith("For") for operator in operators):
            return dice.choice(values)
        if dice.random() < 0.1 and not all(operator.startswith("For") for operator in operators):
            return dice.choice(values)
        own = max(1, len(values) - len(OTHERS))  # the others come last
        if dice.random() < 0.3:
            return tuple(values[:own])
        most = dice.choice([1, 2, 4, own, len(values)])
        several = dice.sample(values, min(most, len(values)))
        return tuple(several)

    def _attestation(self) -> Attestation | None:
        dice, kind = self.dice, self.dice.random()
        if kind < 0.55:
            return None
        if kind < 0.62:
            return Attestation(dict.fromkeys((0, 1, 2, 3, 4, 8, 16), ZEROS))
        if kind < 0.88:
            return Attestation({n: dice.choice(self.digests) for n in (0, 1, 2, 3, 4, 8, 16)})
        return Attestation(nitrotpm={number: dice.choice(self.digests) for number in (4, 7, 12)})


def is_allowed(attempt: Attempt, policy: Json) -> bool:
    """Return whether the evaluator allows an attempt of a caller with every permission."""
    grants = attempt.grants
    return evaluate(attempt.request, policy, [ALLOW_ALL], grants).verdict is Verdict.ALLOWED


def is_bound(policy: Json, request: Request) -> bool:
    """Return whether a request attests an image that *policy* names."""
    takes = request.action != "kms:ReEncryptFrom"
    return takes and worth(policy, request.attestation).name == "BOUND"


def _digest(pattern: str) -> str:
    return pattern.replace("?", "f").replace("*", "f" * 96)[:96].lower()


def _statements(policy: Json) -> list[Json]:
    return [each for each in listed(policy["Statement"]) if isinstance(each, dict)]


def _texts(node: object) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict | list):
        for child in node.values() if isinstance(node, dict) else node:
            yield from _texts(child)


def comparisons(policy: Json) -> Iterator[tuple[str, str, list[str]]]:
    """Yield the operator, the key in lower case, and the values of every condition."""
    for statement in _statements(policy):
        condition = statement.get("Condition", {})
        for operator, keys in condition.items() if isinstance(condition, dict) else ():
            for key, values in keys.items() if isinstance(keys, dict) else ():
                yield operator, key.lower(), [*map(_text, listed(values))]


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
