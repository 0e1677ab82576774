"""What the rules about keys share: the answers of ``generator.access``, once per template."""

from collections.abc import Iterable, Iterator, Mapping
from weakref import WeakKeyDictionary

from cfnlint.rules import RuleMatch
from cfnlint.template import Template

from generator.access.answers import BY_GRANT, Answer, Attests, KeyAccess
from generator.policy.evaluation import Verdict
from generator.policy.request import ACTIONS, Leads
from generator.rules._scope import judged_keys, template_of

_ACCESSES: WeakKeyDictionary[Template, list[KeyAccess]] = WeakKeyDictionary()


def judged(cfn: Template) -> list[KeyAccess]:
    """Return the answers about each key of *cfn* that is judged."""
    if cfn not in _ACCESSES:
        may_be_judged = judged_keys(cfn.template) or cfn.transform_pre.get("Transform")
        template = template_of(cfn) if may_be_judged else cfn.template
        names = judged_keys(template)
        _ACCESSES[cfn] = _accesses(template, names) if names else []
    return _ACCESSES[cfn]


def _accesses(template: Mapping[str, object], names: list[str]) -> list[KeyAccess]:
    from generator.access.questions import accesses  # most templates do not need the solver

    return accesses(template, names)


def answers(cfn: Template) -> list[Answer]:
    """Return every answer about the keys of *cfn* that are judged."""
    return [answer for key in judged(cfn) for answer in key.answers]


def ways_to_plaintext(cfn: Template, attests: Attests) -> list[Answer]:
    """Return who decrypts with *attests* at least: who needs less is reported by another rule."""
    order = [Attests.NOTHING, Attests.DEBUG, Attests.OTHER]
    less = {
        (answer.key, answer.caller.name, answer.action)
        for answer in answers(cfn)
        if answer.attests in order[: order.index(attests)] and _is_allowed(answer)
    }
    return [
        answer
        for answer in allowed(cfn, Leads.TO_PLAINTEXT)
        if answer.attests is attests and (answer.key, answer.caller.name, answer.action) not in less
    ]


def allowed(cfn: Template, leads: Leads) -> Iterator[Answer]:
    """Yield who may call actions that *leads* stands for, without attesting a bound image."""
    for answer in answers(cfn):
        if answer.leads is leads and answer.attests is not Attests.BOUND and _is_allowed(answer):
            yield answer


def unproved(cfn: Template) -> Iterator[Answer]:
    """Yield what may be possible without a bound image, unless an error reports that it is."""
    certain = {
        (answer.key, answer.caller.name, answer.action)
        for answer in answers(cfn)
        if answer.attests is not Attests.BOUND and _is_allowed(answer)
    }
    for answer in answers(cfn):
        matters = answer.caller.outsider or answer.leads is Leads.TO_PLAINTEXT
        if (
            matters
            and answer.attests is not Attests.BOUND
            and answer.decision.verdict is Verdict.CANNOT_PROVE
            and (answer.key, answer.caller.name, answer.action) not in certain
        ):
            yield answer


def _is_allowed(answer: Answer) -> bool:
    return answer.decision.verdict is Verdict.ALLOWED


def owner_itself(answer: Answer) -> bool:
    """Return whether the caller is the key's own account, not by a grant."""
    return not answer.caller.outsider and answer.caller.name != BY_GRANT


def findings(found: Iterable[Answer], fix: str) -> list[RuleMatch]:
    """Return one match for each statement and reason: who may do what, and how to *fix* it."""
    groups: dict[object, list[Answer]] = {}
    for answer in found:
        groups.setdefault((answer.place, answer.decision.reason), []).append(answer)
    return [_finding(group, fix) for group in groups.values()]


def _finding(group: list[Answer], fix: str) -> RuleMatch:
    """Return the match for *group*; cfn-lint passes the counterexample on to its formatters."""
    from generator.access.plain import plain

    examples = [answer.counterexample for answer in group if answer.counterexample]
    shown = {"counterexample": plain(examples[0])} if examples else {}
    return RuleMatch(list(group[0].place), f"{_sentence(group)}: {fix}", **shown)


def _sentence(group: list[Answer]) -> str:
    first = group[0]
    names = [*dict.fromkeys(answer.caller.name for answer in group)]
    actions = ", ".join(dict.fromkeys(answer.action for answer in group))
    given = f" (if {first.given})" if first.given else ""
    is_open = first.decision.verdict is not Verdict.CANNOT_PROVE
    who = _enumeration(names, "and" if is_open else "or")
    if not is_open:
        return f"cannot determine whether {who} may call {actions}{given}: {first.decision.reason}"
    attests = f" with {first.attests.value}" if ACTIONS[first.action].attestable else ""
    return f"{who} may call {actions}{attests}{given}; {first.decision.reason}"


def _enumeration(names: list[str], conjunction: str) -> str:
    """Return *names*, separated by semicolons since some contain commas."""
    return f"; {conjunction} ".join(filter(None, ["; ".join(names[:-1]), names[-1]]))
