"""A request of which only the action is fixed: the caller and the context are symbols.

The caller's account, kind and name are separate symbols, so that a policy compares with one of them
at a time. Callers outside the key's account are assumed to have every permission of their own
account, and to choose everything that the owner does not control: condition keys that do not follow
from the request have any value, or none.

Source: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_condition-keys.html
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from generator.deployments.formulas import (
    Flag,
    Formula,
    Is,
    Subject,
    Symbol,
    every,
    negated,
    some,
)
from generator.deployments.languages import (
    ALL,
    characters,
    either,
    literal,
    repeat,
)
from generator.deployments.surroundings import (
    ACCOUNT_LANGUAGE,
    IDENTITY_LANGUAGE,
    IDENTITY_MAX,
    NAME_CHARACTERS,
    NAME_LANGUAGE,
    NAME_MAX,
    Surroundings,
)
from generator.policy.request import ACTIONS, REGISTER, Kind

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ZEROS = "0" * 96
"""PCR0 of every enclave in debug mode."""
IMAGE = "ab" * 48
_HEXADECIMAL = either(
    repeat(characters((48, 57), (97, 102)), 96, 96), repeat(characters((48, 57), (65, 70)), 96, 96)
)
_SERVICE_LANGUAGE = repeat(characters((65, 90), (97, 122), (48, 57), (45, 46)), 1)
"""Most end in amazonaws.com, but not all: those of other partitions, and internal ones."""
PRINCIPAL_TYPE = "aws:principaltype"
SLOTS_MAX = 12
"""How many values of a multivalued key are distinguished: one for each condition that needs one.

If more conditions need one, the results of the key's conditions are left open.
"""

USUAL_ACCOUNTS = ("444455556666", "777788889999", "222233334444")


class Held(NamedTuple):
    """A request's values for a condition key.

    ``cases`` are the possible values and when each applies; None means that the key is absent.
    ``several`` are the values of a multivalued key, each of which may be present or not. If ``why``
    is not empty, it is the reason why these are too few to represent every request.
    """

    cases: Sequence[tuple[Formula, Subject | None]]
    several: Sequence[tuple[Formula, Symbol]] = ()
    why: str = ""


@dataclass(frozen=True, eq=False)
class Caller:
    """The caller, as symbols; *identity* is the path and name of a role, if it is known."""

    prefix: str
    around: Surroundings
    identity: Subject = ()
    kinds: tuple[Kind, ...] = tuple(Kind)
    kind: Symbol = field(init=False)
    account: Symbol = field(init=False)
    name: Symbol = field(init=False)
    role: Symbol = field(init=False)
    session: Symbol = field(init=False)
    service: Symbol = field(init=False)
    service_type: Symbol = field(init=False)

    def __post_init__(self) -> None:
        """Create the symbols."""
        kinds = [Kind.ROLE] if self.identity else self.kinds
        values = {
            "kind": Symbol(
                f"{self.prefix}kind",
                either(*(literal(kind.value) for kind in kinds)),
                usual=(Kind.ROLE.value,),
            ),
            "account": Symbol(
                f"{self.prefix}account", ACCOUNT_LANGUAGE, rank=4, usual=USUAL_ACCOUNTS
            ),
            "name": Symbol(
                f"{self.prefix}name", IDENTITY_LANGUAGE, IDENTITY_MAX, rank=5, usual=("example",)
            ),
            "role": Symbol(
                f"{self.prefix}role", NAME_LANGUAGE, NAME_MAX, rank=5, usual=("example",)
            ),
            "session": Symbol(
                f"{self.prefix}session",
                repeat(NAME_CHARACTERS, 2),
                NAME_MAX,
                rank=6,
                usual=("session",),
            ),
            "service": Symbol(
                f"{self.prefix}service",
                _SERVICE_LANGUAGE,
                128,
                rank=5,
                usual=("s3.amazonaws.com", "ec2.amazonaws.com"),
            ),
            "service_type": value_symbol(self.prefix, PRINCIPAL_TYPE, 0),
        }
        for name, symbol in values.items():
            object.__setattr__(self, name, symbol)

    def is_(self, *kinds: Kind) -> Formula:
        """Return whether the caller is of one of *kinds*, as a formula."""
        if self.identity:
            return Kind.ROLE in kinds
        return some(Is(self.kind, kind.value) for kind in kinds if kind in self.kinds)

    def names(self, kind: Kind) -> list[Subject]:
        """Return the names of exactly a caller of *kind*, ``aws:PrincipalArn`` first."""
        arn: Subject = ("arn:", self.around.partition, ":iam::", self.own_account)
        session: Subject = ("arn:", self.around.partition, ":sts::", self.own_account)
        if kind is Kind.ROOT:
            return [(*arn, ":root")]
        if kind is Kind.USER:
            return [(*arn, ":user/", self.name)]
        if kind is Kind.ROLE:
            assumed = (*session, ":assumed-role/", self.role, "/", self.session)
            return [self.identity or (*arn, ":role/", self.name), assumed]
        if kind is Kind.FEDERATED:
            return [(*session, ":federated-user/", self.session)]
        return [(self.service,)] if kind is Kind.SERVICE else []

    @property
    def own_account(self) -> Symbol:
        """Return the symbol of the caller's account: a known role is one of the stack's."""
        return self.around.account if self.identity else self.account

    @property
    def account_names(self) -> list[Subject]:
        """Return the names by which a policy can name the caller's whole account."""
        return [
            ("arn:", self.around.partition, ":iam::", self.own_account, ":root"),
            (self.own_account,),
        ]

    @property
    def has_account(self) -> Formula:
        """Return whether the caller belongs to an account, as a formula."""
        return negated(self.is_(Kind.SERVICE, Kind.ANONYMOUS))


@dataclass(frozen=True, eq=False)
class Attested:
    """What KMS verified, as symbols: the document's kind and its registers."""

    kind: Symbol = field(
        default_factory=lambda: Symbol(
            "attestation", either(*map(literal, ("none", "enclave", "NitroTPM"))), usual=("none",)
        )
    )
    registers: dict[str, Symbol] = field(default_factory=dict)

    def register(self, key: str) -> Symbol:
        """Return the symbol of a register by the last part of its condition key, lower case."""
        name = "pcr0" if key == "imagesha384" else key
        if name not in self.registers:
            usual = (IMAGE, "cd" * 48)
            self.registers[name] = Symbol(f"attested {name}", _HEXADECIMAL, usual=usual)
        return self.registers[name]

    def present(self, key: str) -> Formula:
        """Return whether the document has that register; an enclave's always has PCR0."""
        name = "pcr0" if key == "imagesha384" else key
        kind = Is(self.kind, "NitroTPM" if name.startswith("nitrotpm") else "enclave")
        return kind if name == "pcr0" else every((kind, Flag(f"{name} is attested")))


@dataclass(frozen=True, eq=False)
class Asked:
    """One request for *action*, by *caller*, for the key whose ARN is *arn*."""

    action: str
    caller: Caller
    key_account: Symbol
    arn: Subject
    attested: Attested | None
    values: Mapping[str, Sequence[Symbol]]
    multivalued: frozenset[str] = frozenset()

    def held(self, key: str) -> Held:  # noqa: PLR0911 - one case after the other
        """Return the request's values for the condition key *key*, in lower case."""
        caller = self.caller
        with_account = caller.has_account
        if key == "kms:calleraccount":
            return _one((caller.own_account,), with_account)
        if key == "aws:principalaccount":
            return self._principal_account()
        if key == "aws:principalarn":
            kinds = [kind for kind in Kind if kind not in (Kind.SERVICE, Kind.ANONYMOUS)]
            cases = [(caller.is_(kind), caller.names(kind)[0]) for kind in kinds]
            return Held([*cases, (negated(with_account), None)])
        if key == PRINCIPAL_TYPE:
            return self._principal_type()
        if key == "aws:principalisawsservice":
            service = caller.is_(Kind.SERVICE)
            return Held([(service, ("true",)), (negated(service), ("false",))])
        if key == "aws:principalservicename":
            return _one((caller.service,), caller.is_(Kind.SERVICE))
        if key == "aws:securetransport":  # KMS answers over TLS only
            return Held([(True, ("true",))])
        if register := REGISTER.fullmatch(key):
            return self._register(register[1])
        symbols = self.values[key]
        if key not in self.multivalued:
            return _one((symbols[0],), self.carries(symbols[0]))
        why = f"{key} has too many conditions" if len(symbols) > SLOTS_MAX else ""
        return Held([], [(self.carries(symbol), symbol) for symbol in symbols[:SLOTS_MAX]], why)

    def carries(self, symbol: Symbol) -> Flag:
        """Return the flag for the presence of another condition key in the request."""
        return Flag(f"{symbol.name} is present")

    def _principal_account(self) -> Held:
        """Return the caller's account; "anonymous requests return anonymous"."""
        caller, anonymous = self.caller, self.caller.is_(Kind.ANONYMOUS)
        own = (caller.has_account, (caller.own_account,))
        return Held([own, (anonymous, ("anonymous",)), (caller.is_(Kind.SERVICE), None)])

    def _principal_type(self) -> Held:
        """Return the caller's type: every request has it, "including anonymous requests".

        AWS documents no value for a service, so that may be any text, or absent.
        """
        caller = self.caller
        if caller.identity:
            return Held([(True, (Kind.ROLE.value,))])
        is_service = caller.is_(Kind.SERVICE)
        carried = self.carries(caller.service_type)
        return Held(
            [
                (negated(is_service), (caller.kind,)),
                (every((is_service, carried)), (caller.service_type,)),
                (every((is_service, negated(carried))), None),
            ]
        )

    def _register(self, key: str) -> Held:
        takes = ACTIONS.get(self.action)
        if self.attested is None or takes is None or not takes.attestable:
            return Held([(True, None)])
        return _one((self.attested.register(key),), self.attested.present(key))


def _one(subject: Subject, present: Formula) -> Held:
    return Held([(present, subject), (negated(present), None)])


MULTIVALUED = frozenset(
    (
        *("aws:calledvia", "aws:principalorgpaths", "aws:principalservicenameslist"),
        *("aws:resourceorgpaths", "aws:sourceorgpaths", "aws:tagkeys", "aws:vpceorgpaths"),
        *("kms:encryptioncontextkeys", "kms:grantoperations", "kms:resourcealiases"),
    )
)
"""Condition keys with several values, in lower case, whichever operators read them.

Sources, below https://docs.aws.amazon.com/:
    IAM/latest/UserGuide/reference_policies_condition-keys.html
    kms/latest/developerguide/conditions-kms.html
"""
TYPED = frozenset(
    (
        *(
            "aws:currenttime",
            "aws:epochtime",
            "aws:multifactorauthage",
            "aws:multifactorauthpresent",
        ),
        *("aws:sourceip", "aws:tokenissuetime", "aws:viaawsservice", "aws:vpcsourceip"),
        *("kms:bypasspolicylockoutsafetycheck", "kms:grantisforawsresource", "kms:multiregion"),
        *("kms:rotationperiodindays", "kms:schedulekeydeletionpendingwindowindays", "kms:validto"),
    )
)
"""Condition keys whose values are numbers, dates, booleans or addresses, in lower case."""
KNOWN_KEYS = re.compile(
    r"aws:(principal(account|arn|type|isawsservice|servicename)|securetransport)|kms:calleraccount"
    rf"|{REGISTER.pattern}"
)
"""Condition keys that follow from the rest of the request, in lower case."""
WITH_ACCOUNT = (Kind.ROOT, Kind.USER, Kind.ROLE, Kind.FEDERATED)
"""Kinds of caller that belong to an account."""


_CONTEXT = "kms:encryptioncontext:"


def condition_key(key: object) -> str:
    """Return a condition key in lower case, as these are compared without regard to case.

    A request may have pairs of an encryption context that differ only by case. Which of them a key
    stands for is not documented, so each spelling may have a value of its own.

    Source: https://docs.aws.amazon.com/kms/latest/APIReference/API_GrantConstraints.html
    """
    name = str(key)
    lower = name.lower()
    return _CONTEXT + name[len(_CONTEXT) :] if lower.startswith(_CONTEXT) else lower


def value_symbol(prefix: str, key: str, number: int) -> Symbol:
    """Return a symbol for a value of a condition key that the caller chooses."""
    usual = ("example", "other")
    name = f"{prefix}{key}#{number}"
    return Symbol(name, ALL, rank=7, usual=usual, is_typed=key in TYPED)
