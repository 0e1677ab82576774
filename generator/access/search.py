"""Decides questions about a key: the solver searches, the evaluator confirms.

The solver's "no" is a proof. A model that it finds is made concrete, and the policies as AWS would
receive them are evaluated for it: if the request is allowed, it is a counterexample. If not, other
models are tried, first those in which nothing that the encoding leaves open helps the caller. If
none is allowed, the answer is "cannot prove".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from generator.access import models
from generator.access.answers import NO_REQUEST, Attests, Counterexample
from generator.access.attestations import worth
from generator.access.keys import DEFAULT_KEY_POLICY, Key
from generator.access.solver import Model, Problem, UndecidedError
from generator.deployments.concrete import Deployment, parsed
from generator.deployments.formulas import Formula, Free, strictly
from generator.deployments.parameters import takes
from generator.nodes import Path, mapping
from generator.policy.evaluation import Decision, Verdict, evaluate
from generator.policy.operators import UNKNOWN, listed
from generator.policy.request import ACTIONS, Grant, Request

if TYPE_CHECKING:
    from generator.access.requests import Asked
    from generator.access.roles import TemplateRole

MODELS_MAX = 30
"""How many models are tried before a question is undecided."""

ALLOW_ALL: Mapping[str, object] = {
    "Version": "2012-10-17",
    "Statement": {"Effect": "Allow", "Action": "*", "Resource": "*"},
}


@dataclass(frozen=True, eq=False)
class Question:
    """Whether there is a request for which *wanted* holds, through a grant or in a role if given.

    *grant* is an existing one; if it is None, *by_grant* means one that somebody could create.
    """

    asked: Asked
    wanted: Formula
    by_grant: bool = False
    role: TemplateRole | None = None
    grant: Grant | None = None


@dataclass(frozen=True)
class Found:
    """The answer to a question, and the request that shows it if it is "allowed"."""

    decision: Decision
    place: Path
    example: Example | None = None
    given: str = ""


@dataclass(frozen=True, eq=False)
class Example:
    """A concrete request in a concrete deployment, to be evaluated again with changes."""

    key: Key
    deployment: Deployment
    request: Request
    grants: Sequence[Grant] = ()
    role: TemplateRole | None = None

    def decide(self) -> tuple[Decision, Path]:
        """Evaluate it; return the decision, and the deciding statement's path in the template."""
        policy, places = policy_of(self.key, self.deployment)
        identity: list[Mapping[str, object]] = [ALLOW_ALL]
        if self.role is not None:
            identity = self.role.documents(self.deployment)
        decision = evaluate(self.request, policy, identity, self.grants)
        place = places[0][: len(("Resources", "name", "Properties", "KeyPolicy"))]
        if decision.policy == "key policy" and decision.statement is not None:
            place = places[decision.statement]
        return decision, place

    def attests(self) -> Attests:
        """Return what the request's attestation proves in this deployment."""
        if not ACTIONS[self.request.action].attestable:
            return Attests.NOTHING
        policy, _ = policy_of(self.key, self.deployment)
        return worth(policy, self.request.attestation)

    def shows(self, attests: Attests, callers: Callers) -> bool:
        """Return whether it is allowed, and is one of the requests in question."""
        if not callers.includes(self) or self.attests() is not attests:
            return False
        return self.decide()[0].verdict is Verdict.ALLOWED

    def counterexample(self) -> Counterexample:
        """Return it as a counterexample for reports."""
        names = self.request.principal.names
        return Counterexample(
            self.deployment.parameters,
            names[-1] if names else "*",
            self.request.action,
            self.request.key_arn,
            self.request.attestation,
            self.request.context,
            self.grants,
        )


@dataclass(frozen=True, eq=False)
class Callers:
    """Callers that share an answer: as a formula, and as a test of one of them."""

    when: Formula
    includes: Callable[[Example], bool]


def policy_of(key: Key, stack: Deployment) -> tuple[Mapping[str, object], list[Path]]:
    """Return a key's policy as KMS receives it, and the path of each of its statements."""
    known = key.resolved.get(id(stack))
    if known is None:
        known = key.resolved[id(stack)] = (stack, *_resolved(key, stack))
    return known[1], known[2]


def _resolved(key: Key, stack: Deployment) -> tuple[Mapping[str, object], list[Path]]:
    if key.node is DEFAULT_KEY_POLICY:
        document = stack.resolve(DEFAULT_KEY_POLICY)
        return mapping(document), [key.path[:3]]
    node, path = stack.branch(key.node, key.path)
    is_function = any(str(name).startswith("Fn::") for name in mapping(node))
    if isinstance(node, Mapping) and "Statement" in node and not is_function:
        found = [*stack.items(node["Statement"], (*path, "Statement"))]
        statements = [statement for statement, _ in found]
        return {"Statement": statements}, [where for _, where in found] or [path]
    document = stack.resolve(node, default=stack.resolve(DEFAULT_KEY_POLICY))
    statements = [*listed(mapping(parsed(document)).get("Statement", UNKNOWN))]
    return {"Statement": statements}, [path for _ in statements] or [path]


class Search:
    """All questions about one key, encoded together."""

    def __init__(self, key: Key, questions: Sequence[Question], others: Sequence[Formula]) -> None:
        """Encode *questions*; any further assumption must be among *others*."""
        self.key = key
        self.world = key.world()
        self._strict = {id(question): strictly(question.wanted) for question in questions}
        self.problem = Problem(
            [
                self.world,
                *(question.wanted for question in questions),
                *self._strict.values(),
                *others,
            ]
        )

    def close(self) -> None:
        """Free the solver's memory."""
        self.problem.close()

    def has_a_world(self) -> bool:
        """Return whether any deployment is possible; without one, a denial proves nothing."""
        try:
            return self.problem.solve(self.world) is not None
        except UndecidedError:
            return False

    def possible(self, *formulas: Formula) -> Model | None:
        """Return a model of the assumptions about AWS and of *formulas*, None if there is none."""
        around = self.key.template.around
        usual = self.problem.solve(self.world, *formulas, usual=(around.partition, around.region))
        return usual or self.problem.solve(self.world, *formulas)

    def answer(self, question: Question, attests: Attests, callers: Callers) -> Found:
        """Decide *question* for requests with *attests* by some callers."""
        assumed = (self.key.attests(attests, question.asked.action), callers.when)
        try:
            loose = self.possible(question.wanted, *assumed)
            if loose is None:
                return Found(Decision(Verdict.DENIED, NO_REQUEST), self.key.path)
            found = self._confirmed(question, attests, callers, assumed)
        except UndecidedError:
            return self._undecided("the search for a request was given up")
        if found is not None:
            return found
        decision, place = self._example(question, loose).decide()
        if decision.verdict is not Verdict.CANNOT_PROVE:
            return self._undecided(self._left_open(loose))
        return Found(decision, place)

    def _left_open(self, model: Model) -> str:
        """Return what the encoding leaves open, and thereby lets the solver find a request."""
        reasons = sorted(
            {atom.why for atom in (*model.true, *model.false) if isinstance(atom, Free)}
        )
        statements = [each.why for each in self.key.statements if each.why]
        known = [why for why in (*statements, *reasons) if why]
        return known[0] if known else "a request may be allowed, but none of those tried is"

    def _undecided(self, why: str) -> Found:
        return Found(Decision(Verdict.CANNOT_PROVE, why), self.key.path)

    def _confirmed(
        self,
        question: Question,
        attests: Attests,
        callers: Callers,
        assumed: Sequence[Formula],
    ) -> Found | None:
        """Return a request that the evaluator allows, None if none was found."""
        refused = self.problem.attempt()
        for wanted in (self._strict[id(question)], question.wanted):
            for _ in range(MODELS_MAX):
                model = self.possible(wanted, *assumed, refused)
                if model is None:
                    break
                example = self._example(question, model)
                if example.shows(attests, callers) and self._admitted(example):
                    return Found(*example.decide(), example)
                self.problem.refuse(refused, model)
        return None

    def _admitted(self, example: Example) -> bool:
        """Return whether CloudFormation certainly accepts the deployment's parameters."""
        declared = mapping(self.key.template.template.get("Parameters"))
        return all(
            takes(mapping(declaration), example.deployment.parameters[str(name)]) is True
            for name, declaration in declared.items()
        )

    def sample(self, question: Question, *assumed: Formula) -> tuple[Decision, Path] | None:
        """Decide one of the requests that *assumed* describes."""
        try:
            model = self.possible(*assumed)
        except UndecidedError:
            return None
        return self._example(question, model).decide() if model else None

    def _example(self, question: Question, model: Model) -> Example:
        asked = question.asked
        callers = (asked.caller, self.key.creator)
        assignment = models.Assignment.of(self.problem, model, callers)
        parameters = models.parameters(self.key.template, assignment)
        request = models.request(asked, assignment)
        grants: list[Grant] = []
        if question.grant is not None:
            grants.append(question.grant)
        elif question.by_grant and request.principal.names:
            operation = asked.action.partition(":")[2]
            grants.append(Grant(request.principal.names[0], [operation]))
        deployment = Deployment(self.key.template.template, parameters)
        return Example(self.key, deployment, request, grants, question.role)
