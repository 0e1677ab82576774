"""The answers about a key: a verdict for each caller, action and attestation.

This is the data model for the rules and ``explain``:

- ``KeyAccess``: one key, its ``verdict``, the bound ``images``, all ``answers``, ``remarks``.
- ``Answer``: may *caller* call *action* with *attests*; ``decision`` names the statement, ``place``
  is its path, ``given`` describes the parameters, callers and condition keys that it depends on.
- ``Counterexample``: the request of an answer that is "allowed", with concrete values.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from generator.policy.evaluation import Decision, Verdict
from generator.policy.request import ACTIONS, Attestation, Grant, Leads

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from generator.deployments.concrete import Value
    from generator.nodes import Path
    from generator.policy.operators import Values

NO_REQUEST = "no request is allowed"
"""The reason of a denial that no statement decides."""
BY_GRANT = "anyone to whom the key's account gives a grant"


class Attests(Enum):
    """The attestation of a request, as reports call it."""

    NOTHING = "no attestation"
    DEBUG = "a debug enclave (zeros)"
    OTHER = "an image that is not bound"
    BOUND = "a bound image"


class Outcome(Enum):
    """The verdict on a key."""

    CLOSED = "closed"
    OPEN = "open"
    UNDECIDED = "cannot prove"


@dataclass(frozen=True)
class Who:
    """A group of callers by name; *outsider*: not in the key's account."""

    name: str
    outsider: bool = True


@dataclass(frozen=True)
class Counterexample:
    """A request that the evaluator allows, and the deployment in which it does.

    Attributes:
        parameters: values of the template's parameters and pseudo parameters.
        principal: the caller's ARN, a service's name, or ``*`` for somebody without credentials.
        context: condition keys of the request; ``()`` for one that must be absent.
        grants: grants that allow it, if any.
    """

    parameters: Mapping[str, Value]
    principal: str
    action: str
    key_arn: str
    attestation: Attestation | None = None
    context: Mapping[str, Values] = field(default_factory=dict)
    grants: Sequence[Grant] = ()


@dataclass(frozen=True)
class Answer:
    """One question about one key, over everything that the template and AWS leave open.

    ``place`` is the path of the deciding statement, or of the key's policy, in the template;
    ``given`` describes the callers, parameters and condition keys for which it holds, empty if for
    any.
    """

    key: str
    caller: Who
    action: str
    attests: Attests
    decision: Decision
    place: Path
    given: str = ""
    counterexample: Counterexample | None = None

    @property
    def leads(self) -> Leads:
        """Return what a caller gains by the action."""
        return ACTIONS[self.action].leads

    @property
    def verdict(self) -> Verdict:
        """Return the decision's verdict."""
        return self.decision.verdict


@dataclass(frozen=True)
class Image:
    """A digest that a policy names: its register, and the digits or the parameter's name."""

    register: str
    value: str
    is_parameter: bool = False


@dataclass(frozen=True)
class Remark:
    """A remark about a key, and the path that it is about."""

    kind: str
    text: str
    place: Path


@dataclass(frozen=True)
class KeyAccess:
    """All answers about one key."""

    key: str
    answers: Sequence[Answer]
    images: Sequence[Image] = ()
    remarks: Sequence[Remark] = ()

    @property
    def verdict(self) -> Outcome:
        """Return whether somebody decrypts without attesting a bound image."""
        verdicts = {
            answer.verdict
            for answer in self.answers
            if answer.leads is Leads.TO_PLAINTEXT and answer.attests is not Attests.BOUND
        }
        if Verdict.ALLOWED in verdicts:
            return Outcome.OPEN
        return Outcome.UNDECIDED if Verdict.CANNOT_PROVE in verdicts else Outcome.CLOSED
