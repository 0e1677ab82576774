"""Who can decrypt, and who can change that: every question about a template's KMS keys, answered.

For each key of a template, for each stack that the template allows (``template_values``), the
evaluator (``decryption_policy``) is asked about everybody who could matter:

- the key's own account: an administrator with every permission, and the same by a grant alone;
- every outsider that the policy names, whether it allows or denies them; an account that it does
  not name; somebody without credentials; services; whoever receives a grant;
- the template's roles, with their own policies; one that outsiders may assume counts as theirs.

An outsider is presumed to have every permission in its own account, and to arrange whatever the
owner does not control: a condition key that does not follow from the request (an address, a tag, an
encryption context) takes each value that the policy distinguishes, and the answer is ``allowed``
if it is for one of them. The answers of all stacks are merged into the worst.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

from generator.policy.evaluation import (
    ACTIONS,
    Attestation,
    Decision,
    Grant,
    Kind,
    Leads,
    Principal,
    Request,
    Verdict,
    evaluate,
)
from generator.policy.operators import UNKNOWN, Doubt, Values, listed
from generator.template_values import (
    HOST,
    OWNER,
    ZEROS,
    Deployment,
    Path,
    deployments,
    mapping,
    parsed,
)

STRANGER = "300000000003"
"""An account that no policy names."""
OTHER_IMAGE = "0123456789abcdef" * 6
"""PCR0 of an image that no policy names."""
ANY_ROLE = "role/any"
CIRCUMSTANCES_MAX = 64

ALLOW_ALL: Mapping[str, object] = {
    "Version": "2012-10-17",
    "Statement": {"Effect": "Allow", "Action": "*", "Resource": "*"},
}
_OWN = {"Effect": "Allow", "Principal": {"AWS": OWNER}, "Resource": "*"}
DEFAULT_KEY_POLICY: Mapping[str, object] = {
    "Version": "2012-10-17",
    "Statement": {**_OWN, "Action": "kms:*"},
}
"""What KMS gives a key without a policy.

Source: https://docs.aws.amazon.com/kms/latest/developerguide/key-policy-default.html
"""


class Attests(Enum):
    """What comes with the request, in an auditor's words."""

    NOTHING = "no attestation"
    DEBUG = "a debug enclave (zeros)"
    OTHER = "an image that is not bound"
    BOUND = "a bound image"


@dataclass(frozen=True)
class Caller:
    """Somebody who asks; *outsider*: not the key's own account."""

    name: str
    principal: Principal
    outsider: bool = True
    identity_policies: Sequence[Mapping[str, object]] = (ALLOW_ALL,)
    grants: Sequence[Grant] = ()


@dataclass(frozen=True)
class Answer:
    """One question about one key, and the worst answer over all stacks of the template.

    ``place`` is where in the template the deciding statement stands, or the key's policy; ``given``
    says for which parameters and condition keys the answer is this one, empty if for any.
    """

    key: str
    caller: Caller
    action: str
    attests: Attests
    decision: Decision
    place: Path
    given: str = ""

    @property
    def leads(self) -> Leads:
        """Say where the action leads."""
        return ACTIONS[self.action].leads


def questions(template: Mapping[str, object], others: Sequence[Caller] = ()) -> list[Answer]:
    """Answer every question about every KMS key of *template*, decoded from YAML or JSON.

    *others* are asked about besides those whom the template names.
    """
    worst: dict[object, Answer] = {}
    for name, key in _keys(template):
        try:
            found = list(_answers(template, name, mapping(key.get("Properties")), others))
        except RecursionError:  # nested too deep for us, but perhaps not for CloudFormation
            found = list(_answers({}, name, _UNKNOWN_KEY, others))
        for told in found:
            answer = _unless_rewritten(told, template, key)
            index = (name, answer.caller.name, answer.action, answer.attests)
            known = worst.get(index)
            if known is None or _severity(answer.decision) > _severity(known.decision):
                worst[index] = answer
    return list(worst.values())


_UNKNOWN_KEY: Mapping[str, object] = {"KeyPolicy": UNKNOWN}


def _keys(template: Mapping[str, object]) -> Iterator[tuple[str, Mapping[str, object]]]:
    """Yield each key, and one of which nothing is known for whatever writes resources."""
    for name, resource in mapping(template.get("Resources")).items():
        if _writes_its_surroundings(name):
            yield name, {"Properties": _UNKNOWN_KEY}
        elif mapping(resource).get("Type") in ("AWS::KMS::Key", "AWS::KMS::ReplicaKey"):
            yield name, mapping(resource)


def _writes_its_surroundings(name: object) -> bool:
    return str(name) == "Fn::Transform" or str(name).startswith("Fn::ForEach")


def policy_questions(
    policy: Mapping[str, object], owner: str, grants: Sequence[Grant] = ()
) -> list[Answer]:
    """Answer the questions about a key as KMS holds it: its policy, its account, its grants."""
    text = json.dumps(policy, ensure_ascii=False).replace(owner, OWNER)
    key = {"Type": "AWS::KMS::Key", "Properties": {"KeyPolicy": json.loads(text)}}
    grantees = []
    for grant in grants:
        imagined = replace(grant, grantee=grant.grantee.replace(owner, OWNER))
        if principal := _principal(imagined.grantee):  # else KMS shows somebody who was deleted
            outsider = principal.account != OWNER
            name = f"{grant.grantee}, by a grant"
            grantees.append(Caller(name, principal, outsider=outsider, grants=[imagined]))
    return questions({"Resources": {"Key": key}}, grantees)


def _unless_rewritten(
    answer: Answer, template: Mapping[str, object], key: Mapping[str, object]
) -> Answer:
    """Doubt every denial in a template that a macro rewrites around the policy."""
    macros = [str(name) for name in listed(template.get("Transform", []))]
    foreign = [name for name in macros if not name.startswith("AWS::")]
    around = (template.get("Resources"), key, key.get("Properties"))
    foreign += [str(name) for node in around for name in mapping(node) if name == "Fn::Transform"]
    foreign += [str(name) for name in mapping(around[2]) if _writes_its_surroundings(name)]
    if not foreign or answer.decision.verdict is Verdict.ALLOWED:
        return answer
    reason = f"the macro {foreign[0]} may rewrite the policy"
    return replace(answer, decision=Decision(Verdict.CANNOT_PROVE, reason))


def _severity(decision: Decision) -> int:
    return [Verdict.DENIED, Verdict.CANNOT_PROVE, Verdict.ALLOWED].index(decision.verdict)


# --- a key in one stack --------------------------------------------------------------------------


@dataclass(frozen=True)
class _Key:
    """A key in one stack: its policy as KMS gets it, and where each statement comes from."""

    name: str
    policy: Mapping[str, object]
    places: Sequence[Path]
    usage: str
    stack: Deployment
    roles: Sequence[Caller] = field(default=())

    @property
    def arn(self) -> str:
        return str(self.stack.resolve({"Fn::GetAtt": [self.name, "Arn"]}))


def _answers(
    template: Mapping[str, object],
    name: str,
    properties: Mapping[str, object],
    others: Sequence[Caller],
) -> Iterator[Answer]:
    roles = _roles_for_outsiders(template)
    usual: Deployment | None = None
    seen: set[str] = set()
    told = [properties.get("KeyPolicy"), properties.get("KeyUsage"), *roles.values()]
    for stack in deployments(template, *told):
        usual = usual or stack
        key = _key(name, properties, stack, roles)
        index = json.dumps([key.policy, key.usage, [role.identity_policies for role in key.roles]])
        if index not in seen:
            seen.add(index)
            callers = [*_callers(key), *others]
            yield from _answers_in(key, callers, _differences(stack, usual))


def _key(
    name: str,
    properties: Mapping[str, object],
    stack: Deployment,
    roles: Mapping[str, Mapping[str, object]],
) -> _Key:
    place: Path = ("Resources", name, "Properties")
    usage = stack.text(properties.get("KeyUsage", "ENCRYPT_DECRYPT"))
    node, path = stack.branch(properties.get("KeyPolicy"), (*place, "KeyPolicy"))
    document = stack.resolve(node, default=None) if node is not None else None
    if document is None:
        policy, places = DEFAULT_KEY_POLICY, [place]
    elif isinstance(node, Mapping) and isinstance(document, Mapping) and "Statement" in node:
        found = list(stack.items(node["Statement"], (*path, "Statement")))
        policy = {"Statement": [statement for statement, _ in found]}
        places = [where for _, where in found]
    else:
        policy = {"Statement": listed(_statements(document)["Statement"])}
        places = [path for _ in listed(policy["Statement"])]
    callers = [_role(role, body, stack) for role, body in roles.items()]
    return _Key(name, policy, places or [path], usage, stack, callers)


def _statements(document: object) -> Mapping[str, object]:
    """Return a policy's statements alone; they are UNKNOWN if it is none."""
    return {"Statement": mapping(parsed(document)).get("Statement", UNKNOWN)}


def _differences(stack: Deployment, usual: Deployment) -> str:
    """Say in words which parameters and conditions tell *stack* from the *usual* one."""
    words = [
        f"{name} is {_shown(value)}"
        for name, value in stack.parameters.items()
        if value != usual.parameters.get(name)
    ]
    words += [
        f"condition {name} is {str(truth).lower()}" for name, truth in stack.conditions.items()
    ]
    return ", ".join(words)


def _shown(value: Values) -> str:
    if not isinstance(value, str):
        return ",".join(map(_shown, value)) or "an empty list"
    if value == ZEROS:
        return "96 zeros"
    text = value.replace(UNKNOWN, "anything else").replace(HOST, "another account")
    return (
        repr(text.replace(OWNER, "the key's own account"))
        if len(text) <= _SHOWN
        else f"{text[:8]}…"
    )


_SHOWN = 40  # characters


# --- who asks ------------------------------------------------------------------------------------


def _callers(key: _Key) -> Iterator[Caller]:
    """Yield everybody whose answer may differ."""
    iam = f"arn:{_partition(key.stack)}:iam::"
    administrator = Principal.parse(f"{iam}{OWNER}:role/administrator")
    stranger = Principal.parse(f"{iam}{STRANGER}:{ANY_ROLE}")
    root = Principal.parse(f"{iam}{OWNER}:root")
    yield Caller("an administrator of the key's account", administrator, outsider=False)
    if _tells_root_users_apart(key.policy):
        yield Caller("the root user of the key's account", root, outsider=False)
    grants = [Grant(f"{iam}{STRANGER}:root", [action.partition(":")[2] for action in ACTIONS])]
    yield Caller(BY_GRANT, stranger, outsider=False, grants=grants)
    yield Caller("an account that the policy does not name", stranger)
    yield Caller("somebody without credentials", Principal.parse("*"))
    for principal in sorted(_named(key.policy, key.stack) - {root}, key=str):
        yield Caller(_label(principal, key.stack), principal, outsider=principal.account != OWNER)
    yield from key.roles


BY_GRANT = "whoever the key's account gives a grant"


def _named(policy: Mapping[str, object], stack: Deployment) -> set[Principal]:
    """Return every principal that *policy* names, and a role of each account."""
    found = set()
    iam = f"arn:{_partition(stack)}:iam::"
    for text in _texts(policy):
        for account in re.findall(r"^\d{12}$|(?<=::)\d{12}(?=:)", text):
            if account != OWNER:
                found.add(Principal.parse(f"{iam}{account}:{ANY_ROLE}"))
        if not re.search(f"[*?${UNKNOWN}]", text) and (principal := _principal(text)):
            found.add(principal)
    if not _tells_root_users_apart(policy):
        found = {who for who in found if who.kind is not Kind.ROOT}
    # The account that owns the key needs no row for each name that a parameter may give it.
    owner_is_named = OWNER in stack.parameters.values()
    return {who for who in found if not (owner_is_named and who.account == OWNER)}


def _tells_root_users_apart(policy: Mapping[str, object]) -> bool:
    """Say whether a root user may fare otherwise than a role with every permission."""
    names = (key for key, _, _ in _conditions(policy))
    return any(name.startswith("aws:principal") for name in names) or any(
        "NotPrincipal" in mapping(statement) for statement in listed(policy.get("Statement", []))
    )


def _principal(text: str) -> Principal | None:
    try:
        return Principal.parse(text)
    except ValueError:
        return None


def _partition(stack: Deployment) -> str:
    return stack.text({"Ref": "AWS::Partition"})


def _texts(node: object) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    elif isinstance(node, (Mapping, list)):
        for child in node.values() if isinstance(node, Mapping) else node:
            yield from _texts(child)


def _label(principal: Principal, stack: Deployment) -> str:
    """Name a principal as the template does: by its parameters."""
    start, account, rest = principal.names[0].partition(principal.account or principal.names[0])
    parameters = {name: value for name, value in sorted(stack.parameters.items()) if value}
    naming = next((name for name, value in parameters.items() if value == account), None)
    for name, value in parameters.items():
        if isinstance(value, str) and name != naming:
            rest = rest.replace(value, f"${{{name}}}")
    if naming:
        account = f"${{{naming}}}"
    account = account.replace(OWNER, "${AWS::AccountId}")
    return f"a role of account {account}" if rest == f":{ANY_ROLE}" else start + account + rest


# --- roles that outsiders may assume -------------------------------------------------------------


TO_THE_BUILD = (
    *("codebuild:StartBuild", "codebuild:StartBuildBatch", "codebuild:UpdateProject"),
    *("codecommit:GitPull", "codecommit:GitPush", "cloudformation:UpdateStack", "sts:AssumeRole"),
    *("iam:AttachRolePolicy", "iam:PutRolePolicy", "iam:UpdateAssumeRolePolicy"),
    *("iam:CreateAccessKey", "iam:CreatePolicyVersion", "iam:PassRole"),
)
"""Actions that lead to the code before it is sealed, or to the permissions of others."""


def ways_to_the_build(template: Mapping[str, object]) -> dict[str, list[str]]:
    """Return for each role that outsiders may assume which of TO_THE_BUILD it may call, if any.

    What cannot be proved to be denied counts.
    """
    try:
        roles = _roles_for_outsiders(template)
        return {
            name: sorted({action for stack in stacks for action in _called(name, role, stack)})
            for name, role in roles.items()
            if (stacks := list(deployments(template, role)))
        }
    except RecursionError:  # then nothing is proved about the keys either, and a rule says so
        return {}


def _called(name: str, role: Mapping[str, object], stack: Deployment) -> Iterator[str]:
    caller = _role(name, role, stack)
    for action in TO_THE_BUILD:
        request = Request(action, caller.principal, OWNER)
        decision, _ = _possible(request, {"Statement": {**_OWN, "Action": "*"}}, caller)
        if decision.verdict is not Verdict.DENIED:
            yield action


def _roles_for_outsiders(template: Mapping[str, object]) -> dict[str, Mapping[str, object]]:
    """Return the roles of the template that somebody outside the key's account may assume.

    With each come all policies that the template attaches to any role: to which one, the names
    tell that they have in a stack.
    """
    found: dict[str, Mapping[str, object]] = {}
    resources = mapping(template.get("Resources"))
    properties = [mapping(mapping(each).get("Properties")) for each in resources.values()]
    attached = [each for each in properties if "PolicyDocument" in each]
    for name, resource in resources.items():
        role = mapping(resource)
        trust = mapping(role.get("Properties")).get("AssumeRolePolicyDocument")
        if role.get("Type") == "AWS::IAM::Role" and any(
            _assumable(_statements(stack.resolve(trust)), stack)
            for stack in deployments(template, trust)
        ):
            found[name] = {**role, "Attached": attached}
    return found


_ASSUMING = ("sts:AssumeRole", "sts:AssumeRoleWithSAML", "sts:AssumeRoleWithWebIdentity")


def _assumable(trust: Mapping[str, object], stack: Deployment) -> bool:
    """Say whether an outsider may assume a role: a policy without Resource, of other actions."""
    statements = [
        {**statement, "Resource": "*"} if isinstance(statement, Mapping) else statement
        for statement in listed(trust.get("Statement", UNKNOWN))
    ]
    if any(_is_federated(mapping(statement)) for statement in statements):
        return True
    policy = {"Statement": statements}
    stranger = Principal.parse(f"arn:{_partition(stack)}:iam::{STRANGER}:{ANY_ROLE}")
    return any(
        _possible(Request(action, who, OWNER), policy, Caller("", who))[0].verdict
        is not Verdict.DENIED
        for who in {stranger, *_named(policy, stack)}
        if who.account not in ("", OWNER)
        for action in _ASSUMING
    )


def _is_federated(statement: Mapping[str, object]) -> bool:
    """Say whether an identity provider decides who assumes the role: AWS knows none of them."""
    trusted = mapping(statement.get("Principal"))
    return statement.get("Effect") != "Deny" and "Federated" in trusted


def _role(name: str, role: Mapping[str, object], stack: Deployment) -> Caller:
    """Return the role with the policies that it has in *stack*."""
    properties = mapping(role.get("Properties"))
    policies = [
        _statements(mapping(policy).get("PolicyDocument"))
        for policy, _ in stack.items(properties.get("Policies", []), ())
    ]
    own = stack.text({"Ref": name})
    for policy in map(mapping, listed(role["Attached"])):
        names = [stack.text(policy.get("RoleName", ""))]
        names += [str(item) for item, _ in stack.items(policy.get("Roles", []), ())]
        if any(UNKNOWN in own + each or own == each for each in names):
            policies.append(_statements(stack.resolve(policy["PolicyDocument"])))
    if "ManagedPolicyArns" in properties:
        policies.append(ALLOW_ALL)
    principal = _principal(str(stack.resolve({"Fn::GetAtt": [name, "Arn"]})))
    if principal is None:  # its name or path is not known
        principal = Principal.parse(f"arn:{_partition(stack)}:iam::{OWNER}:role/{UNKNOWN}")
    label = f"role {name}, which outsiders may assume"
    return Caller(label, principal, identity_policies=policies)


# --- what is asked -------------------------------------------------------------------------------


def _answers_in(key: _Key, callers: Sequence[Caller], given: str) -> Iterator[Answer]:
    attestations = list(_attestations(key))
    for caller in callers:
        for action in _actions(caller, key):
            for attests, attestation in (
                attestations if ACTIONS[action].attestable else [_UNATTESTED]
            ):
                request = Request(action, caller.principal, OWNER, key.arn, attestation)
                decision, circumstances = _possible(request, key.policy, caller)
                place = key.places[0][: len(("Resources", "name", "Properties", "KeyPolicy"))]
                if decision.policy == "key policy" and decision.statement is not None:
                    place = key.places[decision.statement]
                words = ", ".join(filter(None, (given, circumstances)))
                yield Answer(key.name, caller, action, attests, decision, place, words)


def _actions(caller: Caller, key: _Key) -> Iterator[str]:
    """Yield the actions that matter: the key's own account may seal, and only what the key can."""
    useful = {"KEY_AGREEMENT": ["kms:DeriveSharedSecret"]}.get(
        key.usage, ["kms:Decrypt", "kms:ReEncryptFrom"]
    )
    for action, facts in ACTIONS.items():
        controls = facts.leads is Leads.TO_CONTROL and caller.name != BY_GRANT
        if caller.outsider or action in useful or controls:
            yield action


_UNATTESTED: tuple[Attests, Attestation | None] = (Attests.NOTHING, None)


def _attestations(key: _Key) -> Iterator[tuple[Attests, Attestation | None]]:
    """Yield what may come with a request; other digests than PCR0 are presumed to be as named."""
    named: dict[int, list[str]] = {0: []}
    for condition, _, values in _conditions(key.policy):
        if found := re.fullmatch(r"kms:recipientattestation:(imagesha384|pcr(\d+))", condition):
            named.setdefault(int(found[2] or 0), []).extend(values)
    others = {index: values[0].lower() for index, values in named.items() if index and values}
    yield _UNATTESTED
    yield Attests.DEBUG, Attestation.debug()
    unnamed = {OTHER_IMAGE, *map(_instance, named[0])} - {ZEROS, *map(str.lower, named[0])}
    for image in sorted(unnamed):
        yield Attests.OTHER, Attestation({**others, 0: image})
    for image in dict.fromkeys(map(str.lower, named[0])):
        if re.fullmatch(r"[0-9a-f]{96}", image) and image != ZEROS:
            yield Attests.BOUND, Attestation({**others, 0: image})


def _instance(pattern: str) -> str:
    """Return a digest that *pattern* matches if its wildcards are such."""
    filled = pattern.lower().replace("?", "f")
    return filled.replace("*", "f" * max(0, len(ZEROS) + 1 - len(filled)), 1).replace("*", "")


def _possible(
    request: Request, policy: Mapping[str, object], caller: Caller
) -> tuple[Decision, str]:
    """Decide a request whose further condition keys are as they suit the caller best."""
    asked = evaluate(request, policy, caller.identity_policies, caller.grants)
    if asked.verdict is not Verdict.CANNOT_PROVE:
        return asked, ""
    choices: dict[str, list[Values]] = {}
    complete = True
    for document in (policy, *caller.identity_policies):
        for key, name, values in _conditions(document):
            if isinstance(request.values(key), Doubt):
                complete = complete and name.startswith(_FINITE)
                choices.setdefault(key, [()]).extend(_distinguished(name, values))
    if not choices or math.prod(map(len, choices.values())) > CIRCUMSTANCES_MAX:
        return asked, ""
    decisions = []
    for combination in itertools.product(*choices.values()):
        context = dict(zip(choices, combination, strict=True))
        stated = replace(request, context=context)
        decisions.append(evaluate(stated, policy, caller.identity_policies, caller.grants))
        if decisions[-1].verdict is Verdict.ALLOWED:
            return decisions[-1], ", ".join(_circumstance(*item) for item in context.items())
    if complete and all(decision.verdict is Verdict.DENIED for decision in decisions):
        return decisions[0], ""
    return asked, ""


_FINITE = ("String", "Arn", "Bool", "Null")
"""Operators that only tell values apart which ``_distinguished`` lists."""


def _circumstance(key: str, values: Values) -> str:
    return f"{key} is {_shown(values)}" if values else f"there is no {key}"


def _distinguished(name: str, values: Sequence[str]) -> Iterator[Values]:
    """Yield values that an operator may tell apart: those named, and another."""
    examples = [value.replace("*", "x").replace("?", "x") for value in values]
    if name.startswith("Bool"):
        examples = ["true", "false"]
    elif "IpAddress" in name:
        examples = [value.partition("/")[0] for value in values] + ["203.0.113.99"]
    elif name.startswith(("Numeric", "Date")):
        examples += ["0", "99999999999"]
    elif name != "Null":
        examples += ["another", f"arn:aws:iam::{STRANGER}:role/another"]
    for example in dict.fromkeys(examples):
        yield [example] if name.startswith("For") else example


def _conditions(document: Mapping[str, object]) -> Iterator[tuple[str, str, list[str]]]:
    """Yield (key, operator, values) of every condition in a policy."""
    for statement in listed(document.get("Statement", [])):
        for name, keys in mapping(mapping(statement).get("Condition")).items():
            for key, values in mapping(keys).items():
                yield key.lower(), name, [str(value) for value in listed(values)]
