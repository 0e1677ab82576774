"""Whether more than one outside account decrypts in a bound image; only one host is intended."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from generator.access import models
from generator.access.answers import Attests, Remark
from generator.access.attestations import worth
from generator.access.requests import WITH_ACCOUNT, Asked, Caller
from generator.access.search import ALLOW_ALL, policy_of
from generator.access.solver import Model, UndecidedError
from generator.deployments.concrete import Deployment
from generator.deployments.formulas import Equal, Formula, Text, every, negated, strictly
from generator.policy.evaluation import Verdict, evaluate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from generator.access.keys import Key
    from generator.access.search import Search
    from generator.nodes import Path

ACTION = "kms:Decrypt"
KIND = "more than one outside account decrypts"


@dataclass(eq=False)
class Pair:
    """Two callers of different accounts, neither of them the key's, with the same attestation."""

    key: Key
    second: Asked = field(init=False)
    wanted: Formula = field(init=False)

    def __post_init__(self) -> None:
        """Create the second caller's symbols, and the formula."""
        key = self.key
        caller = Caller("second ", key.template.around, kinds=WITH_ACCOUNT)
        self.second = key.asked_by(ACTION, caller, attested=key.attested)
        owner = key.template.around.account
        distinct = [
            negated(Equal(one, "", other, "", ignore_case=False))
            for one, other in (
                (key.caller.account, owner),
                (caller.account, owner),
                (key.caller.account, caller.account),
            )
        ]
        first = key.asked(ACTION)
        self.wanted = strictly(
            every(
                (
                    key.attests(Attests.BOUND, ACTION),
                    key.caller.has_account,
                    *distinct,
                    key.allowed(first),
                    key.allowed(self.second),
                )
            )
        )

    def remark(self, search: Search, named: Sequence[Text]) -> Remark | None:
        """Return a remark if two accounts decrypt; *named* are the policy's accounts."""
        try:
            model = search.possible(self.wanted)
        except UndecidedError:
            return None
        return self._confirmed(search, model, named) if model is not None else None

    def _confirmed(self, search: Search, model: Model, named: Sequence[Text]) -> Remark | None:
        key = self.key
        first = key.asked(ACTION)
        callers = (first.caller, self.second.caller)
        assignment = models.Assignment.of(search.problem, model, callers)
        values = models.parameters(key.template, assignment)
        requests = [models.request(asked, assignment) for asked in (first, self.second)]
        policy, places = policy_of(key, Deployment(key.template.template, values))
        decisions = [evaluate(request, policy, [ALLOW_ALL]) for request in requests]
        accounts = {request.principal.account for request in requests}
        if (
            len(accounts - {"", requests[0].key_account}) < len(requests)
            or worth(policy, requests[0].attestation) is not Attests.BOUND
            or any(decision.verdict is not Verdict.ALLOWED for decision in decisions)
        ):
            return None
        place: Path = places[decisions[1].statement or 0]
        names = [_name(request.principal.account, named, values) for request in requests]
        return Remark(KIND, f"{' and '.join(dict.fromkeys(names))} may call", place)


def _name(account: str, named: Sequence[Text], values: dict[str, str | list[str]]) -> str:
    """Return an account's name as in the policy."""
    for text in named:
        parts = [piece if isinstance(piece, str) else values.get(piece.name) for piece in text]
        if parts == [account]:
            shown = [piece if isinstance(piece, str) else f"${{{piece.name}}}" for piece in text]
            return f"account {''.join(shown)}"
    return "any other account"
