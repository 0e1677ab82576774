"""Who can decrypt, and who can change that: every question about a template's KMS keys.

For each key, the callers are the key's own account, anyone with a grant, every account that the
policy names, accounts that it does not name, callers without credentials, services, and the
template's roles that outsiders may assume; each for every deployment that the template allows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from generator.access.answers import (
    NO_REQUEST,
    Answer,
    Attests,
    Image,
    KeyAccess,
    Outcome,
    Who,
)
from generator.access.groups import EVERYBODY, Group, accounts_named_by, groups_of, shown
from generator.access.keys import DEFAULT_KEY_POLICY, Key
from generator.access.outsiders import Pair
from generator.access.roles import TemplateRole, template_roles
from generator.access.search import Callers, Found, Question, Search
from generator.access.serverless import SERVERLESS, with_serverless_roles
from generator.access.solver import UndecidedError
from generator.access.statements import named
from generator.access.usages import decrypting, usages
from generator.access.words import given
from generator.deployments.comparisons import is_known
from generator.deployments.formulas import Formula, Items, Symbol, every, negated, some
from generator.deployments.languages import literal
from generator.deployments.surroundings import Surroundings
from generator.deployments.symbolic import Template, Written
from generator.nodes import mapping, walk
from generator.policy.evaluation import Decision, Verdict
from generator.policy.operators import UNKNOWN, listed
from generator.policy.request import ACTIONS, Grant, Leads

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Mapping, Sequence

KEYS = ("AWS::KMS::Key", "AWS::KMS::ReplicaKey")
UNKNOWN_KEY: Mapping[str, object] = {"KeyPolicy": {"Fn::Transform": UNKNOWN}}
CONTROL = Leads.TO_CONTROL
NO_WORLD = "as far as this program can tell, this template cannot be deployed at all"


@dataclass
class Report:
    """The answers about one key, as they are found."""

    key: Key
    search: Search
    groups: Sequence[Group]
    answers: list[Answer] = field(default_factory=list)


def questions(template: Mapping[str, object]) -> list[Answer]:
    """Answer every question about every KMS key of *template*, decoded from YAML or JSON."""
    return [answer for access in accesses(template) for answer in access.answers]


def accesses(
    template: Mapping[str, object], among: Container[str] | None = None
) -> list[KeyAccess]:
    """Return the answers about the KMS keys of *template*: all of them, or those in *among*."""
    found = []
    for name, properties in keys(template):
        if among is not None and name not in among:
            continue
        try:
            access = _access(template, name, properties)
        except RecursionError:  # nested too deeply for us, but perhaps not for CloudFormation
            access = _access({}, name, UNKNOWN_KEY)
        resource = mapping(mapping(template.get("Resources")).get(name))
        foreign = [*_rewriting(template, resource)]
        answers = (
            _unproved(access.answers, f"{foreign[0]} may rewrite the policy")
            if foreign
            else access.answers
        )
        found.append(replace(access, answers=answers))
    return found


def keys(template: Mapping[str, object]) -> Iterator[tuple[str, Mapping[str, object]]]:
    """Yield each key's name and properties, and an unknown key for what a macro may add."""
    for name, resource in mapping(template.get("Resources")).items():
        body = mapping(resource)
        if _writes_its_surroundings(name) or str(body.get("Type")).endswith("::MODULE"):
            yield str(name), UNKNOWN_KEY
        elif body.get("Type") in KEYS:
            yield str(name), mapping(body.get("Properties"))


def _writes_its_surroundings(name: object) -> bool:
    return str(name) == "Fn::Transform" or str(name).startswith("Fn::ForEach")


def policy_access(
    policy: Mapping[str, object],
    owner: str,
    grants: Sequence[Grant] = (),
    arn: str | None = None,
    usage: str = "ENCRYPT_DECRYPT",
) -> KeyAccess:
    """Return the answers about a key as it is in KMS: its policy, its account, its grants.

    Args:
        policy: the key policy, as ``GetKeyPolicy`` returns it.
        owner: the account that owns the key.
        grants: as ``ListGrants`` returns them.
        arn: the key's ARN, None if it is not known.
        usage: the key's usage, as ``DescribeKey`` returns it.
    """
    around = _surroundings(owner, arn)
    resource = {"Type": KEYS[0], "Properties": {"KeyPolicy": policy, "KeyUsage": usage}}
    template = {"Resources": {"Key": resource}}
    return _access(template, "Key", resource["Properties"], around, grants)  # type: ignore[arg-type]


def policy_questions(
    policy: Mapping[str, object], owner: str, grants: Sequence[Grant] = ()
) -> list[Answer]:
    """Return the answers of ``policy_access``."""
    return [*policy_access(policy, owner, grants).answers]


def _surroundings(owner: str, arn: str | None) -> Surroundings:
    around = Surroundings()
    if re.fullmatch("[0-9]{12}", owner):
        around = replace(around, account=_constant(around.account, owner))
    found = re.fullmatch(r"arn:([^:]+):kms:([^:]+):\d{12}:key/(.+)", arn or "")
    if found:
        around = replace(
            around,
            partition=_constant(around.partition, found[1]),
            region=_constant(around.region, found[2]),
            key_id=_constant(around.key_id, found[3]),
        )
    return around


def _constant(symbol: Symbol, text: str) -> Symbol:
    return replace(symbol, language=literal(text), usual=(text,))


def _unproved(answers: Sequence[Answer], why: str) -> list[Answer]:
    """Turn every denial into "cannot prove"."""
    decision = Decision(Verdict.CANNOT_PROVE, why)
    return [
        answer if answer.verdict is Verdict.ALLOWED else replace(answer, decision=decision)
        for answer in answers
    ]


def _rewriting(template: Mapping[str, object], key: Mapping[str, object]) -> Iterator[str]:
    """Yield the macros and loops that may replace what the answers about *key* rest on."""
    macros = [str(name) for name in listed(template.get("Transform", []))]
    yield from (f"the macro {name}" for name in macros if not name.startswith("AWS::"))
    if "Fn::Transform" in mapping(template.get("Resources")):
        yield "the macro Fn::Transform"
    read: list[object] = [template, key, key.get("Properties")]
    for section in ("Parameters", "Mappings", "Conditions"):
        read += [node for _, node in walk(template.get(section))]
    for resource in mapping(template.get("Resources")).values():
        if str(mapping(resource).get("Type")).startswith(("AWS::IAM::", SERVERLESS)):
            read += [resource, mapping(resource).get("Properties")]
    for node in read:
        yield from (f"the macro {name}" for name in mapping(node) if _writes_its_surroundings(name))


def outcome(template: Mapping[str, object], name: str, owner: str = "") -> Outcome:
    """Decide only whether somebody decrypts unattested with the key *name*."""
    properties = mapping(mapping(mapping(template.get("Resources")).get(name)).get("Properties"))
    key = _key(Template(template, _surroundings(owner, None)), name, properties, [])
    leading = [*_questions(key, Leads.TO_PLAINTEXT)]
    unbound = [attests for attests in Attests if attests is not Attests.BOUND]
    others = [key.attests(each, question.asked.action) for each in unbound for question in leading]
    search = Search(key, leading, others)
    found = Outcome.CLOSED
    try:
        for question in leading:
            for attests in unbound:
                verdict = search.answer(question, attests, EVERYBODY).decision.verdict
                if verdict is Verdict.ALLOWED:
                    return Outcome.OPEN
                if verdict is Verdict.CANNOT_PROVE:
                    found = Outcome.UNDECIDED
        impossible = not search.has_a_world()
    finally:
        search.close()
    body = mapping(mapping(template.get("Resources")).get(name))
    if found is Outcome.CLOSED and (impossible or any(_rewriting(template, body))):
        return Outcome.UNDECIDED
    return found


# --- one key -------------------------------------------------------------------------------------


def _access(
    template: Mapping[str, object],
    name: str,
    properties: Mapping[str, object],
    around: Surroundings | None = None,
    grants: Sequence[Grant] = (),
) -> KeyAccess:
    known_template = Template(with_serverless_roles(template), around)
    roles = template_roles(known_template)
    key = _key(known_template, name, properties, roles)
    groups = [*groups_of(key)]
    asked = [*_questions(key)]
    for role in roles:
        asked += _role_questions(key, role)
    for grant in grants:
        asked += _grant_questions(key, grant)
    escalating = [(role, found) for role in roles if (found := _escalations(key, role))]
    pair = Pair(key)
    others = [question.wanted for _, found in escalating for question in found.values()]
    others += [pair.wanted, *(group.callers.when for group in groups)]
    others.append(negated(key.of_owner))
    others += [key.attests(attests, action) for attests in Attests for action in ACTIONS]
    search = Search(key, asked, others)
    try:
        report = Report(key, search, groups)
        named_accounts = [text for text, _ in accounts_named_by(key)]
        remark = pair.remark(search, named_accounts) if _decrypts(key) else None
        for question in asked:
            if question.role is not None:
                who = Who(f"role {question.role.name}, which outsiders may assume")
                _ask_one(report, question, who)
            elif question.grant is not None:
                grantee = f"{question.grant.grantee}, by a grant"
                _ask_one(report, question, Who(grantee, _is_outsider(key, question.grant)))
            else:
                _ask(report, question)
        for role, escalations in escalating:
            _ask_escalating(report, role, escalations)
        answers = report.answers
        if not search.has_a_world():
            answers = _unproved(answers, NO_WORLD)
    finally:
        search.close()
    return KeyAccess(name, answers, [*_images(key)], [remark] if remark else [])


def _decrypts(key: Key) -> bool:
    return "kms:Decrypt" in decrypting(key.usage)


def _key(
    template: Template,
    name: str,
    properties: Mapping[str, object],
    roles: Sequence[TemplateRole],
) -> Key:
    place = ("Resources", name, "Properties", "KeyPolicy")
    node = properties.get("KeyPolicy")
    extra = [statement for role in roles for statement in (*role.policies, *role.trust)]
    key = Key(name, template, DEFAULT_KEY_POLICY if node is None else node, place, extra=extra)
    key.usage = usages(template, name, properties)
    return key


def _questions(key: Key, *among: Leads) -> Iterator[Question]:
    """Yield a question for each action, only for those that lead to one of *among*, if given."""
    for action, facts in ACTIONS.items():
        if among and facts.leads not in among:
            continue
        asked = key.asked(action)
        if facts.leads is Leads.TO_PLAINTEXT and action not in decrypting(key.usage):
            continue
        if facts.leads is Leads.TO_FORGERY and "ENCRYPT_DECRYPT" not in key.usage:
            continue
        yield Question(asked, key.allowed(asked))
        if facts.leads is Leads.TO_PLAINTEXT:
            yield Question(asked, key.granted(asked), by_grant=True)


def _ask(report: Report, question: Question) -> None:
    """Answer *question* for every group of callers and every attestation."""
    key, action = report.key, question.asked.action
    facts = ACTIONS[action]
    for attests in Attests if facts.attestable else (Attests.NOTHING,):
        with_it = key.attests(attests, action)
        groups = [group for group in report.groups if group.by_grant is question.by_grant]
        if not question.by_grant and facts.leads is Leads.TO_FORGERY:
            groups = [group for group in groups if group.who.outsider]
        overall = report.search.possible(question.wanted, with_it)
        sample: Found | None = None
        for group in groups:
            if overall is None:
                sample = sample or _denial(report, question, with_it)
                found = sample
            else:
                # Prefer an example in which the grant is for somebody in another account.
                callers = group.callers
                found = report.search.answer(question, attests, callers)
                if found.decision.verdict is Verdict.DENIED and group.by_grant:
                    callers = EVERYBODY
                    found = report.search.answer(question, attests, callers)
                if found.decision.verdict is Verdict.DENIED:
                    found = _denial(report, question, with_it, callers.when)
                elif found.example and (group.who.outsider or _is_finding(question, attests)):
                    found = _simplest(found, attests, callers)
            report.answers.append(_answer(report, question, group.who, attests, found))


def _is_finding(question: Question, attests: Attests) -> bool:
    """Return whether to describe the conditions under which the key's own account may."""
    leads = ACTIONS[question.asked.action].leads
    return leads is Leads.TO_PLAINTEXT and attests is not Attests.BOUND


def _simplest(found: Found, attests: Attests, callers: Callers) -> Found:
    """Return the simplest request with the same answer, and a description of what it depends on."""
    assert found.example is not None  # noqa: S101 - callers have checked
    words, example = given(found.example, lambda other: other.shows(attests, callers))
    decision, place = example.decide()
    return Found(decision, place, example, words)


def _denial(report: Report, question: Question, *assumed: Formula) -> Found:
    """Return the statement that denies a request: one request represents all."""
    if ACTIONS[question.asked.action].leads is not Leads.TO_PLAINTEXT:
        return Found(Decision(Verdict.DENIED, NO_REQUEST), report.key.path)
    sampled = report.search.sample(question, *assumed)
    if sampled is None or sampled[0].verdict is not Verdict.DENIED:
        return Found(Decision(Verdict.DENIED, NO_REQUEST), report.key.path)
    return Found(*sampled)


def _answer(report: Report, question: Question, who: Who, attests: Attests, found: Found) -> Answer:
    decision = found.decision
    if (
        question.grant is None
        and decision.policy.startswith("grant")
        and decision.verdict is Verdict.ALLOWED
    ):
        decision = replace(
            decision, reason="a grant is enough, and the key's policy allows somebody to create one"
        )
    return Answer(
        report.key.name,
        who,
        question.asked.action,
        attests,
        decision,
        found.place,
        found.given,
        found.example.counterexample() if found.example else None,
    )


def _role_questions(key: Key, role: TemplateRole) -> Iterator[Question]:
    for action, facts in ACTIONS.items():
        if facts.leads is Leads.TO_PLAINTEXT and action not in decrypting(key.usage):
            continue
        asked = key.asked(action, role=role.caller)
        wanted = role.may(key, asked)
        if wanted is not False:
            yield Question(asked, wanted, role=role)


def _grant_questions(key: Key, grant: Grant) -> Iterator[Question]:
    """Yield questions about an existing grant."""
    operations = {f"kms:{operation}".lower() for operation in grant.operations}
    for action, facts in ACTIONS.items():
        if facts.leads is Leads.TO_PLAINTEXT and action not in decrypting(key.usage):
            continue
        if action.lower() in operations:
            asked = key.asked(action)
            is_grantee = some(named("AWS", Written((grant.grantee,)), key.caller))
            wanted = every((is_grantee, negated(key.denied(asked))))
            yield Question(asked, wanted, by_grant=True, grant=grant)


def _escalations(key: Key, role: TemplateRole) -> dict[str, Question]:
    """Return, by IAM action, whether *role* may use it where its account controls the key."""
    asked = [key.asked(action) for action, facts in ACTIONS.items() if facts.leads is CONTROL]
    controlled = every((key.of_owner, some(key.allowed(each) for each in asked)))
    represents = key.asked("kms:PutKeyPolicy")
    return {
        action: Question(represents, every((role.assumable, way, controlled)))
        for action, way in role.escalates.items()
    }


def _ask_escalating(report: Report, role: TemplateRole, questions: Mapping[str, Question]) -> None:
    """Report a role by which outsiders may get the permissions of others in its account.

    What they may do with these is not evaluated, so control of the key is not excluded.
    """
    who = Who(f"role {role.name}, which outsiders may assume")
    answered = {(each.caller, each.action) for each in report.answers}
    for name, question in questions.items():
        if (who, question.asked.action) in answered:
            return
        if _is_possible(report.search, question.wanted):
            why = f"it may call {name}, which may give it the permissions of others in its account"
            undecided = Found(Decision(Verdict.CANNOT_PROVE, why), ("Resources", role.name))
            report.answers.append(_answer(report, question, who, Attests.NOTHING, undecided))
            return


def _is_possible(search: Search, wanted: Formula) -> bool:
    try:
        return search.possible(wanted) is not None
    except UndecidedError:
        return True


def _is_outsider(key: Key, grant: Grant) -> bool:
    found = re.search(r"(?<=::)\d{12}(?=:)", grant.grantee)
    return not found or found[0] not in key.template.around.account.usual


def _ask_one(report: Report, question: Question, who: Who) -> None:
    """Answer for one known caller; an action that it may certainly not call is left out."""
    action = question.asked.action
    found: dict[Attests, Found] = {}
    attestations = [*Attests] if ACTIONS[action].attestable else [Attests.NOTHING]
    for attests in attestations:
        with_it = report.key.attests(attests, action)
        if report.search.possible(question.wanted, with_it) is None:
            continue
        found[attests] = report.search.answer(question, attests, EVERYBODY)
        if found[attests].example:
            found[attests] = _simplest(found[attests], attests, EVERYBODY)
    denied = Found(Decision(Verdict.DENIED, NO_REQUEST), report.key.path)
    for attests in attestations if found else ():
        answer = _answer(report, question, who, attests, found.get(attests, denied))
        report.answers.append(answer)


def _images(key: Key) -> Iterator[Image]:
    """Yield the images that the policy names."""
    seen = set()
    for register in ("pcr0", "nitrotpmpcr4", "nitrotpmpcr7", "nitrotpmpcr12"):
        for _, node, _ in key.digests(register):
            image = None
            if isinstance(node, Items):
                image = Image(register, node.name, is_parameter=True)
            elif isinstance(node, Written):
                image = Image(register, shown(node.text), is_parameter=not is_known(node.text))
            if image is not None and image not in seen:
                seen.add(image)
                yield image
