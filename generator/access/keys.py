"""A key and everything unknown about it, encoded once for all questions."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from generator.access.answers import Attests
from generator.access.attestations import admits
from generator.access.requests import (
    KNOWN_KEYS,
    MULTIVALUED,
    SLOTS_MAX,
    WITH_ACCOUNT,
    ZEROS,
    Asked,
    Attested,
    Caller,
    condition_key,
    value_symbol,
)
from generator.access.statements import (
    Applied,
    Statement,
    applied,
    literal_partitions,
    policy_statements,
)
from generator.deployments.comparisons import How, compare, compare_items, is_known, known
from generator.deployments.formulas import (
    Equal,
    Formula,
    Is,
    Items,
    Matches,
    Subject,
    Symbol,
    every,
    negated,
    some,
)
from generator.deployments.languages import ALL, concat, literal
from generator.deployments.symbolic import Located, Node, Opaque, Template, Written
from generator.nodes import mapping
from generator.policy.request import ACTIONS, REGISTER, Kind

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from generator.deployments.concrete import Deployment
    from generator.nodes import Path

DEFAULT_KEY_POLICY: Mapping[str, object] = {
    "Version": "2012-10-17",
    "Statement": {
        "Effect": "Allow",
        "Principal": {"AWS": {"Ref": "AWS::AccountId"}},
        "Action": "kms:*",
        "Resource": "*",
    },
}
"""The default policy of a key that is created without one.

Source: https://docs.aws.amazon.com/kms/latest/developerguide/key-policy-default.html
"""


@dataclass(eq=False)
class Key:
    """A key of a template, with symbols for the caller.

    Attributes:
        creator: a caller who creates a grant.
    """

    name: str
    template: Template
    node: object
    path: Path
    arn: Subject = ()
    usage: Sequence[str] = ("ENCRYPT_DECRYPT",)
    extra: Sequence[Statement] = ()
    statements: list[Statement] = field(init=False)
    used: dict[str, list[str]] = field(init=False)
    caller: Caller = field(init=False)
    creator: Caller = field(init=False)
    attested: Attested = field(init=False)
    values: dict[str, list[Symbol]] = field(init=False)
    creator_values: dict[str, list[Symbol]] = field(init=False)
    multivalued: frozenset[str] = field(init=False)
    resolved: dict[int, tuple[Deployment, Mapping[str, object], list[Path]]] = field(
        init=False, default_factory=dict
    )

    def __post_init__(self) -> None:
        """Read the policy and create the symbols."""
        around = self.template.around
        self.arn = self.arn or (
            *("arn:", around.partition, ":kms:", around.region, ":", around.account, ":key/"),
            around.key_id,
        )
        found = policy_statements(self.template, self.node, self.path, DEFAULT_KEY_POLICY)
        self.statements = [replace(each, is_certain=True) for each in found]
        self.caller = Caller("", around)
        self.creator = Caller("creator's ", around, kinds=(*WITH_ACCOUNT, Kind.SERVICE))
        self.attested = Attested()
        used: dict[str, list[str]] = {}
        for operator, key in condition_keys(self.template, [*self.statements, *self.extra]):
            used.setdefault(key, []).append(operator)
        self.used = used
        for key in used:
            if register := REGISTER.fullmatch(key):
                self.attested.register(register[1])
        self.attested.register("pcr0")
        self.values, self.multivalued = further_values("", used)
        self.creator_values, _ = further_values("creator's ", used)
        self._formulas: dict[tuple[str, str], Formula] = {}
        self._applied: dict[tuple[str, str], list[Applied]] = {}

    def world(self) -> Formula:
        """Return what holds for every deployment and request, after everything has been read."""
        refused = [negated(formula) for formula in self.template.refused]
        partitions = literal_partitions(self.template, self.statements)
        return every((partitions, self._places_fit(), *refused))

    def _places_fit(self) -> Formula:
        """Regions of China and GovCloud are in partitions of their own."""
        around = self.template.around
        tests = []
        for partition, prefix in (("aws-cn", "cn-"), ("aws-us-gov", "us-gov-")):
            there = Matches((around.region,), concat(literal(prefix), ALL))
            here = Is(around.partition, partition)
            tests += [some((negated(there), here)), some((there, negated(here)))]
        return every(tests)

    # --- requests ---

    def asked(self, action: str, *, by_creator: bool = False, role: Caller | None = None) -> Asked:
        """Return the request for *action* by the caller, the creator of a grant, or a role."""
        caller = self.creator if by_creator else role or self.caller
        return Asked(
            action,
            caller,
            self.template.around.account,
            self.arn,
            None if by_creator else self.attested,
            self.creator_values if by_creator else self.values,
            self.multivalued,
        )

    def asked_by(self, action: str, caller: Caller, attested: Attested | None) -> Asked:
        """Return the request for *action* by another caller, with condition keys of its own."""
        values, multivalued = further_values(caller.prefix, self.used)
        account = self.template.around.account
        return Asked(action, caller, account, self.arn, attested, values, multivalued)

    def applied(self, asked: Asked) -> list[Applied]:
        """Return whether each statement of the key's policy applies to a request."""
        index = (asked.action, asked.caller.prefix)
        if index not in self._applied:
            self._applied[index] = [
                applied(self.template, statement, asked, on_key=True)
                for statement in self.statements
            ]
        return self._applied[index]

    def _formula(self, name: str, asked: Asked, formulas: Iterator[Formula]) -> Formula:
        index = (f"{name} {asked.action}", asked.caller.prefix)
        if index not in self._formulas:
            self._formulas[index] = some(formulas)
        return self._formulas[index]

    def denied(self, asked: Asked) -> Formula:
        """Return whether the key's policy denies a request, as a formula."""
        return self._formula("denied", asked, (each.denies for each in self.applied(asked)))

    def allowed(self, asked: Asked) -> Formula:
        """Return whether the key's policy allows a caller whose account allows everything."""
        found = self._formula(
            "allowed",
            asked,
            (some((each.allows_name, each.allows_account)) for each in self.applied(asked)),
        )
        return every((found, negated(self.denied(asked))))

    def granted(self, asked: Asked) -> Formula:
        """Return whether a grant that somebody could create allows the caller, as a formula."""
        giving = self.allowed(self.asked("kms:CreateGrant", by_creator=True))
        known = negated(asked.caller.is_(Kind.ANONYMOUS))
        return every((known, giving, negated(self.denied(asked))))

    # --- who, and with what ---

    @property
    def of_owner(self) -> Formula:
        """Return whether the caller belongs to the key's account, as a formula."""
        same = Equal(self.caller.account, "", self.template.around.account, "", ignore_case=False)
        return every((self.caller.has_account, same))

    def of_account(self, node: Node) -> Formula:
        """Return whether the caller's account is the one that *node* names, as a formula."""
        if isinstance(node, Written):
            return every((self.caller.has_account, compare(node.text, (self.caller.account,))))
        if isinstance(node, Items):
            return every((self.caller.has_account, compare_items(node, (self.caller.account,))))
        return False

    def attests(self, attests: Attests, action: str) -> Formula:
        """Return whether a request for *action* has the attestation *attests*, as a formula.

        It is not known whether debug mode changes registers other than PCR0 to PCR2. So only zeros
        in all registers are a debug enclave; zeros in PCR0 alone are an unbound image.
        """
        if not ACTIONS[action].attestable:
            return attests is Attests.NOTHING
        nothing = Is(self.attested.kind, "none")
        registers = self.attested.registers.items()
        zeros = [Is(symbol, ZEROS) for name, symbol in registers if name.startswith("pcr")]
        debug = every((Is(self.attested.kind, "enclave"), *zeros))
        bound = self._bound()
        other = every((negated(nothing), negated(debug), negated(bound)))
        return {
            Attests.NOTHING: nothing,
            Attests.DEBUG: debug,
            Attests.OTHER: other,
            Attests.BOUND: bound,
        }[attests]

    def _bound(self) -> Formula:
        """Return whether the attestation names an image, as a formula.

        PCR0 alone does. Of NitroTPM's registers, PCR4 or PCR7 does, together with PCR12, whose
        correct value may be zeros.
        """
        if ("bound", "") not in self._formulas:
            enclave = every((Is(self.attested.kind, "enclave"), self._listed("pcr0")))
            booted = [self._listed(f"nitrotpmpcr{number}") for number in (4, 7)]
            command_line = self._listed("nitrotpmpcr12", zeros=True)
            tpm = every((Is(self.attested.kind, "NitroTPM"), some(booted), command_line))
            self._formulas["bound", ""] = some((enclave, tpm))
        return self._formulas["bound", ""]

    def _listed(self, register: str, *, zeros: bool = False) -> Formula:
        """Return whether the policy names the value of a register, as a formula."""
        if register not in self.attested.registers:
            return False
        symbol = self.attested.registers[register]
        named = some(
            every((when, self._names(node, symbol))) for when, node, _ in self.digests(register)
        )
        not_zeros = zeros or negated(Is(symbol, ZEROS))
        return every((self.attested.present(register), not_zeros, named))

    def _names(self, node: Node, symbol: Symbol) -> Formula:
        how = How(ignore_case=True)
        if isinstance(node, Items):
            return compare_items(node, (symbol,), how)
        return compare(node.text, (symbol,), how) if isinstance(node, Written) else False

    def digests(self, register: str) -> Iterator[tuple[Formula, Node, Path]]:
        """Yield the values of a register that the policy admits, except patterns."""
        names = {register} | ({"imagesha384"} if register == "pcr0" else set())
        for statement in self.statements:
            for effect, when in self._effects(statement):
                for also, operator, key, values in self._conditions(statement):
                    if key.rpartition(":")[2] not in names or not admits(effect, operator):
                        continue
                    for more, node, _ in self.template.items(values):
                        if not _is_pattern(node):
                            yield every((when, also, more)), node, statement.path

    def _effects(self, statement: Statement) -> Iterator[tuple[str, Formula]]:
        """Yield each effect that a statement may have, empty if it is not known."""
        for when, text in self.template.texts(mapping(statement.body).get("Effect")):
            unknown = isinstance(text, Opaque) or not is_known(text)
            yield "" if unknown else known(text), every((statement.when, when))

    def _conditions(self, statement: Statement) -> Iterator[tuple[Formula, str, str, object]]:
        """Yield formula, operator, key in lower case, and values of a statement's conditions."""
        condition = mapping(statement.body).get("Condition", {})
        for when, operators in self.template.alternatives(condition):
            for name, keys in mapping(getattr(operators, "node", None)).items():
                for also, found in self.template.alternatives(keys):
                    for key, values in mapping(getattr(found, "node", None)).items():
                        yield every((when, also)), str(name), condition_key(key), values


def condition_keys(
    template: Template, statements: Sequence[Statement]
) -> Iterator[tuple[str, str]]:
    """Yield operator and key, in lower case, of every condition."""
    for statement in statements:
        condition = mapping(statement.body).get("Condition", {})
        for _, operators in template.alternatives(condition):
            if not isinstance(operators, Located):
                continue
            for name, keys in mapping(operators.node).items():
                for _, found in template.alternatives(keys):
                    if isinstance(found, Located):
                        for key in mapping(found.node):
                            yield str(name), condition_key(key)


def further_values(
    prefix: str, used: Mapping[str, Sequence[str]]
) -> tuple[dict[str, list[Symbol]], frozenset[str]]:
    """Return symbols for the condition keys that a caller chooses, and which are multivalued.

    *used* are the operators by key. A set needs one value for each condition that needs one, and a
    second one if an operator for single values reads it, too.
    """
    further = {key: names for key, names in used.items() if not KNOWN_KEYS.fullmatch(key)}
    most = SLOTS_MAX + 1  # one more shows that these are too few
    symbols, multivalued = {}, []
    for key, names in further.items():
        count = sum(name.startswith("For") for name in names)
        if count or key in MULTIVALUED:
            multivalued.append(key)
            count = max(count, 1 if count == len(names) else 2)
        count = min(max(count, 1), most)
        symbols[key] = [value_symbol(prefix, key, number) for number in range(count)]
    return symbols, frozenset(multivalued)


def _is_pattern(node: Node) -> bool:
    if not isinstance(node, Written):
        return False
    return any(isinstance(piece, str) and re.search(r"[*?$]", piece) for piece in node.text)
