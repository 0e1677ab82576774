"""Roles of the template that outsiders may assume, and what outsiders may do through them."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from generator.access.keys import Key, condition_keys, further_values
from generator.access.requests import WITH_ACCOUNT, Asked, Caller
from generator.access.serverless import with_serverless_roles
from generator.access.solver import Problem, UndecidedError
from generator.access.statements import (
    Statement,
    applied,
    entries,
    policy_statements,
    value_matches,
)
from generator.deployments.comparisons import equal_texts
from generator.deployments.concrete import parsed
from generator.deployments.formulas import (
    Equal,
    Formula,
    Free,
    Subject,
    Symbol,
    every,
    negated,
    some,
)
from generator.deployments.symbolic import Opaque, Template, Written
from generator.nodes import mapping
from generator.policy.operators import UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from generator.deployments.concrete import Deployment

ASSUMING = ("sts:AssumeRole", "sts:AssumeRoleWithSAML", "sts:AssumeRoleWithWebIdentity")
FOR_CERTIFICATES = ("rolesanywhere.amazonaws.com", "credentials.iot.amazonaws.com")
"""Services that assume a role for whoever has a certificate, on machines outside AWS.

Sources, below https://docs.aws.amazon.com/:
    rolesanywhere/latest/userguide/trust-model.html
    iot/latest/developerguide/authorizing-direct-aws.html
"""
TO_THE_BUILD = (
    *("codebuild:StartBuild", "codebuild:StartBuildBatch", "codebuild:UpdateProject"),
    *("codecommit:GitPull", "codecommit:GitPush", "cloudformation:UpdateStack", "sts:AssumeRole"),
    *("iam:AttachRolePolicy", "iam:PutRolePolicy", "iam:UpdateAssumeRolePolicy"),
    *("iam:CreateAccessKey", "iam:CreatePolicyVersion", "iam:PassRole"),
)
"""Actions that lead to the code before it is encrypted, or to the permissions of others."""

_ALLOW_ALL: Mapping[str, object] = {
    "Statement": {"Effect": "Allow", "Action": "*", "Resource": "*"}
}


ESCALATING = (
    *("iam:AddUserToGroup", "iam:AttachGroupPolicy", "iam:AttachRolePolicy"),
    *("iam:AttachUserPolicy", "iam:CreateAccessKey", "iam:CreateLoginProfile"),
    *("iam:CreatePolicyVersion", "iam:PassRole", "iam:PutGroupPolicy", "iam:PutRolePolicy"),
    *("iam:PutUserPolicy", "iam:SetDefaultPolicyVersion", "iam:UpdateAssumeRolePolicy"),
    "iam:UpdateLoginProfile",
)
"""Actions by which a caller gets permissions of others in its account, or gives itself any.

Source: https://docs.aws.amazon.com/service-authorization/latest/reference/list_awsidentityandaccessmanagementiam.html
"""


@dataclass(eq=False)
class TemplateRole:
    """A role of a template: who may assume it, and what its own policies say.

    Attributes:
        assumable: the formula for whether somebody outside the stack's account may assume it,
            directly or through other roles of the template.
    """

    name: str
    template: Template
    properties: Mapping[str, object]
    trust: Sequence[Statement]
    policies: Sequence[Statement]
    caller: Caller
    assumed_by: Caller = field(init=False)
    assumable: Formula = field(init=False)

    def __post_init__(self) -> None:
        """Create the symbols of the caller that assumes it."""
        prefix = f"{self.name}'s assumer's "
        self.assumed_by = Caller(prefix, self.template.around, kinds=WITH_ACCOUNT)
        self.assumable = self._by_outsiders()

    def _by_outsiders(self) -> Formula:
        """Return whether somebody outside the stack's account may assume the role directly."""
        federated = some(_is_federated(self.template, statement) for statement in self.trust)
        if federated is True:
            return True
        used: dict[str, list[str]] = {}
        for operator, key in condition_keys(self.template, self.trust):
            used.setdefault(key, []).append(operator)
        values, multivalued = further_values(self.assumed_by.prefix, used)
        around = self.template.around
        outside = negated(Equal(self.assumed_by.account, "", around.account, "", ignore_case=False))
        ways = []
        for action in ASSUMING:
            asked = Asked(
                action,
                self.assumed_by,
                around.account,
                (_any_resource(self.name),),
                None,
                values,
                multivalued,
            )
            found = [
                applied(self.template, statement, asked, on_key=True) for statement in self.trust
            ]
            allows = some(some((each.allows_name, each.allows_account)) for each in found)
            ways.append(every((allows, negated(some(each.denies for each in found)))))
        by_account = every((self.assumed_by.has_account, outside, some(ways)))
        return some((federated, by_account))

    def by_role(self, other: TemplateRole) -> Formula:
        """Return whether a session of *other* may assume this role, as a formula.

        In one account it is enough that the trust policy names the other role. If it names the
        account, the other role's own policies must allow it, too.
        """
        used: dict[str, list[str]] = {}
        for operator, key in condition_keys(self.template, [*self.trust, *other.policies]):
            used.setdefault(key, []).append(operator)
        values, multivalued = further_values(f"{other.name} for {self.name}: ", used)
        asked = Asked(
            ASSUMING[0],
            other.caller,
            self.template.around.account,
            self.caller.identity or (_any_resource(self.name),),
            None,
            values,
            multivalued,
        )
        trust = [applied(self.template, each, asked, on_key=True) for each in self.trust]
        own = [applied(self.template, each, asked, on_key=False) for each in other.policies]
        delegated = every(
            (
                some(each.allows_account for each in trust),
                some(each.allows_name for each in own),
            )
        )
        allowed = some((some(each.allows_name for each in trust), delegated))
        return every((allowed, negated(some(each.denies for each in (*trust, *own)))))

    @functools.cached_property
    def escalates(self) -> Mapping[str, Formula]:
        """Return the ESCALATING actions that an outsider may call, each with its formula."""
        if self.assumable is False:
            return {}
        return {action: way for action, way in _ways(self, ESCALATING).items() if way is not False}

    def may(self, key: Key, asked: Asked) -> Formula:
        """Return whether the policy of *key* and the role's own policies allow a request."""
        if self.assumable is False:
            return False
        own = [
            applied(self.template, statement, asked, on_key=False) for statement in self.policies
        ]
        on_key = key.applied(asked)
        delegated = every(
            (
                some(each.allows_account for each in on_key),
                some(each.allows_name for each in own),
            )
        )
        return every(
            (
                self.assumable,
                negated(some(each.denies for each in (*on_key, *own))),
                some((some(each.allows_name for each in on_key), delegated)),
            )
        )

    def documents(self, stack: Deployment) -> list[Mapping[str, object]]:
        """Return the role's policies as IAM would receive them in *stack*."""
        found = [
            _statements(mapping(policy).get("PolicyDocument"))
            for policy, _ in stack.items(self.properties.get("Policies", []), ())
        ]
        own = stack.text({"Ref": self.name})
        for policy in _attached(self.template):
            names = [stack.text(policy.get("RoleName", ""))]
            names += [str(item) for item, _ in stack.items(policy.get("Roles", []), ())]
            if any(UNKNOWN in own + each or own == each for each in names):
                found.append(_statements(stack.resolve(policy["PolicyDocument"])))
        if "ManagedPolicyArns" in self.properties:
            found.append(_ALLOW_ALL)
        return found


def _statements(document: object) -> Mapping[str, object]:
    return {"Statement": mapping(parsed(document)).get("Statement", UNKNOWN)}


def _any_resource(name: str) -> Symbol:
    return Symbol(f"a resource of {name}", rank=9)


def template_roles(template: Template) -> list[TemplateRole]:
    """Return the roles whose trust policy may admit a caller that is not a service."""
    found = []
    template.optional += 1  # a role need not be created, so a missing mapping key is no refusal
    for name, resource in mapping(template.template.get("Resources")).items():
        body = mapping(resource)
        if body.get("Type") != "AWS::IAM::Role":
            continue
        properties = mapping(body.get("Properties"))
        trust = [
            _with_resource(statement)
            for statement in policy_statements(
                template, properties.get("AssumeRolePolicyDocument"), ("Resources", str(name))
            )
        ]
        (_, arn), *_ = template.alternatives({"Fn::GetAtt": [str(name), "Arn"]})
        identity: Subject = arn.text if isinstance(arn, Written) else ()
        caller = Caller(f"{name}'s ", template.around, identity)
        policies = [*_policies(template, str(name), properties)]
        found.append(TemplateRole(str(name), template, properties, trust, policies, caller))
    template.optional -= 1
    _chain(found)
    return found


def _chain(roles: Sequence[TemplateRole]) -> None:
    """Add chains: a role that outsiders may assume may assume another one, and so on."""
    if all(role.assumable is False for role in roles):
        return
    edges: dict[tuple[str, str], Formula] = {}
    direct = [role.assumable for role in roles]
    for _ in roles[1:]:  # a chain visits no role twice
        reached = [role.assumable for role in roles]
        for role, own in zip(roles, direct, strict=True):
            ways = [own]
            for other, by_outsiders in zip(roles, reached, strict=True):
                if other is role or by_outsiders is False:
                    continue
                pair = (other.name, role.name)
                if pair not in edges:
                    unlike = every((_is_unlike(role, roles), _is_unlike(other, roles)))
                    edges[pair] = every((role.by_role(other), unlike))
                ways.append(every((by_outsiders, edges[pair])))
            role.assumable = some(ways)
        if all(edge is False for edge in edges.values()):
            return


def _is_unlike(role: TemplateRole, roles: Sequence[TemplateRole]) -> Formula:
    """Return whether *role* differs in name from the other roles that state none, as a formula.

    CloudFormation gives each of these a unique name.
    """
    if "RoleName" in role.properties:
        return True
    same = [
        every((when, also, _equal(one, text)))
        for other in roles
        if other is not role and "RoleName" not in other.properties
        for when, one in role.template.texts({"Ref": role.name})
        for also, text in role.template.texts({"Ref": other.name})
    ]
    return negated(some(same))


def _with_resource(statement: Statement) -> Statement:
    if statement.body is None:
        return statement
    body = {**statement.body, "Resource": "*"}
    return Statement(statement.when, body, statement.path)


def _is_federated(template: Template, statement: Statement) -> Formula:
    """Return whether somebody outside AWS decides who assumes the role, as a formula.

    That is an identity provider, or the issuer of the certificates for which a service assumes it.
    """
    body = mapping(statement.body)
    if body.get("Effect") == "Deny" or "Principal" not in body:
        return False
    ways = []
    for when, kind, node in entries(template, body["Principal"]):
        if kind == "Service":
            ways += [every((when, value_matches(node, (name,)))) for name in FOR_CERTIFICATES]
        elif kind == "Federated":
            ways.append(when)
    return every((statement.when, some(ways)))


def _policies(
    template: Template, name: str, properties: Mapping[str, object]
) -> Iterator[Statement]:
    for when, policy, path in template.items(properties.get("Policies", []), ("Resources", name)):
        document = mapping(getattr(policy, "node", None)).get("PolicyDocument")
        yield from _guarded(when, policy_statements(template, document, path))
    own = template.texts({"Ref": name})
    for attached in _attached(template):
        names = [*template.texts(attached["RoleName"])] if "RoleName" in attached else []
        for when, item, _ in template.items(attached.get("Roles", [])):
            text = item.text if isinstance(item, Written) else Opaque("roles are not known")
            names.append((when, text))
        is_own = some(
            every((when, also, _equal(one, other))) for when, one in own for also, other in names
        )
        if is_own is not False:
            statements = policy_statements(template, attached["PolicyDocument"], ())
            yield from _guarded(is_own, statements)
    if "ManagedPolicyArns" in properties:
        yield Statement(True, mapping(_ALLOW_ALL["Statement"]), ())  # noqa: FBT003 - always


def _equal(one: Subject | Opaque, other: Subject | Opaque) -> Formula:
    if isinstance(one, Opaque) or isinstance(other, Opaque):
        return Free("the name of a role is not known")
    return equal_texts(one, other)


def _guarded(when: Formula, statements: Sequence[Statement]) -> Iterator[Statement]:
    for each in statements:
        yield Statement(every((when, each.when)), each.body, each.path, each.why, each.free)


def _attached(template: Template) -> list[Mapping[str, object]]:
    resources = mapping(template.template.get("Resources"))
    properties = [mapping(mapping(each).get("Properties")) for each in resources.values()]
    return [each for each in properties if "PolicyDocument" in each]


def ways_to_the_build(template: Mapping[str, object]) -> dict[str, list[str]]:
    """Return, for each role that outsiders may assume, which of TO_THE_BUILD it may call.

    An action that is not proved to be denied counts as allowed.
    """
    try:
        roles = template_roles(Template(with_serverless_roles(template)))
        return {role.name: called for role in roles if (called := _called(role))}
    except RecursionError:  # then nothing is proved about the keys either, which a rule reports
        return {}


def _called(role: TemplateRole) -> list[str]:
    if role.assumable is False:
        return []
    found = _ways(role, TO_THE_BUILD)
    ways = {action: every((role.assumable, way)) for action, way in found.items()}
    possible = {action: way for action, way in ways.items() if way is not False}
    if not possible:
        return []
    problem = Problem(possible.values())
    try:
        return sorted(action for action, way in possible.items() if _is_possible(problem, way))
    finally:
        problem.close()


def _ways(role: TemplateRole, actions: Sequence[str]) -> dict[str, Formula]:
    """Return, for each action, whether the role's own policies allow it on some resource."""
    used: dict[str, list[str]] = {}
    for operator, key in condition_keys(role.template, role.policies):
        used.setdefault(key, []).append(operator)
    values, multivalued = further_values(role.caller.prefix, used)
    around = role.template.around
    ways: dict[str, Formula] = {}
    for action in actions:
        resource = (_any_resource(role.name),)
        asked = Asked(action, role.caller, around.account, resource, None, values, multivalued)
        own = [applied(role.template, each, asked, on_key=False) for each in role.policies]
        allowed = some(each.allows_name for each in own)
        ways[action] = every((allowed, negated(some(each.denies for each in own))))
    return ways


def _is_possible(problem: Problem, way: Formula) -> bool:
    try:
        return problem.solve(way) is not None
    except UndecidedError:
        return True
