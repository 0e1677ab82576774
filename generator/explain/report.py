"""Who can decrypt, in words an auditor quotes; then who can change that.

The answers are those of `generator.access`; here they become sentences, tables and JSON.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import Enum
from itertools import groupby
from pathlib import Path

from rich.console import Console
from rich.table import Table

from generator import bare_policy, documents
from generator.access.answers import Answer, Attests, Counterexample, KeyAccess
from generator.access.questions import accesses, policy_access
from generator.errors import GeneratorError
from generator.policy.evaluation import Decision, Verdict
from generator.policy.request import Grant, Leads

UNKNOWN_OWNER = ""
SEVERITY = (Verdict.DENIED, Verdict.CANNOT_PROVE, Verdict.ALLOWED)
STYLES = {Verdict.DENIED: "green", Verdict.CANNOT_PROVE: "yellow", Verdict.ALLOWED: "red"}


class Door(Enum):
    """The verdict on a key as a whole, as an auditor says it."""

    CLOSED = "Nobody decrypts without attesting a bound image."
    OPEN = "Somebody decrypts without attesting a bound image."
    UNCERTAIN = "It cannot be proved that nobody decrypts without attesting a bound image."


@dataclass(frozen=True)
class Row:
    """One answered question: may *principal* do *action* with *attestation*, and why."""

    key: str
    principal: str
    attestation: str
    action: str
    verdict: str
    statement: str | None
    reason: str
    given: str
    counterexample: Counterexample | None

    @property
    def question(self) -> tuple[str, str, str]:
        """Return what was asked, whatever the key is called."""
        return self.principal, self.attestation, self.action


@dataclass(frozen=True)
class Explanation:
    """Everything that is to be said about the keys of one document."""

    subject: str
    keys: Sequence[KeyAccess]
    document: Mapping[str, object] = field(default_factory=dict)

    @property
    def answers(self) -> list[Answer]:
        """Return every answer about every key."""
        return [answer for key in self.keys for answer in key.answers]

    @property
    def decryptions(self) -> list[Answer]:
        """Return the answers about plaintext."""
        return [answer for answer in self.answers if answer.leads is Leads.TO_PLAINTEXT]

    @property
    def controls(self) -> list[Answer]:
        """Return who may change the rest, or may perhaps."""
        return [
            answer
            for answer in self.answers
            if answer.leads is Leads.TO_CONTROL and answer.decision.verdict is not Verdict.DENIED
        ]

    @property
    def door(self) -> Door:
        """Return the verdict on all keys together."""
        unattested = {
            answer.decision.verdict
            for answer in self.decryptions
            if answer.attests is not Attests.BOUND
        }
        if Verdict.ALLOWED in unattested:
            return Door.OPEN
        return Door.UNCERTAIN if Verdict.CANNOT_PROVE in unattested else Door.CLOSED

    @property
    def is_safe(self) -> bool:
        """Say whether nobody decrypts unattested, and no outsider may control a key."""
        outsiders = any(answer.caller.outsider for answer in self.controls)
        return self.door is Door.CLOSED and not outsiders

    def as_json(self, drift: Sequence[str] = ()) -> str:
        """Return the explanation for machines, with what a live key's *drift* is."""
        found = {
            "subject": self.subject,
            "verdict": self.door.name.lower(),
            "images": [asdict(image) for key in self.keys for image in key.images],
            "decryptions": [asdict(row(answer)) for answer in self.decryptions],
            "controls": [asdict(row(answer)) for answer in self.controls],
        }
        return json.dumps({**found, "drift": list(drift)} if drift else found, indent=2)


def explain(path: Path) -> Explanation:
    """Explain the template or policy document in the file *path*.

    Raises:
        GeneratorError: it cannot be read, or has no key.
    """
    return explain_document(documents.read(path), str(path))


def explain_document(
    document: Mapping[str, object],
    subject: str,
    grants: Sequence[Grant] = (),
    arn: str | None = None,
) -> Explanation:
    """Explain a template or a policy document, already decoded; of a key on AWS by its *arn*.

    Raises:
        GeneratorError: a template without a key.
    """
    if documents.is_policy(document):
        account = arn.split(":")[4] if arn else bare_policy.likely_owner(document) or UNKNOWN_OWNER
        return Explanation(subject, [policy_access(document, account, grants, arn)], document)
    found = accesses(document)
    if not found:
        raise GeneratorError(f"{subject}: declares no KMS key: there is nothing to explain")
    return Explanation(subject, found, document)


def row(answer: Answer) -> Row:
    """Return *answer* in plain text."""
    return Row(
        key=answer.key,
        principal=answer.caller.name,
        attestation=answer.attests.value,
        action=answer.action,
        verdict=answer.decision.verdict.value,
        statement=statement(answer.decision),
        reason=answer.decision.reason,
        given=answer.given,
        counterexample=answer.counterexample,
    )


def statement(decision: Decision) -> str | None:
    """Name the statement that decides, None if none does."""
    if decision.statement is None:
        return None
    return decision.sid or f"{decision.policy}, statement {decision.statement + 1}"


def intended(answer: Answer) -> bool:
    """Say whether a yes is as it should be: a bound image decrypts, the key's account governs."""
    governs = answer.leads is Leads.TO_CONTROL and not answer.caller.outsider
    return answer.decision.verdict is Verdict.ALLOWED and (
        governs or answer.attests is Attests.BOUND
    )


def worst(answers: Iterable[Answer]) -> Answer:
    """Return the answer that is the most dangerous if it is about plaintext."""
    return max(answers, key=lambda answer: SEVERITY.index(answer.decision.verdict))


def matrix(answers: Sequence[Answer]) -> dict[str, dict[Attests, Answer]]:
    """Map each principal to the worst answer for each attestation, over all actions."""
    found: dict[str, dict[Attests, Answer]] = {}
    for name in dict.fromkeys(answer.caller.name for answer in answers):
        own = [answer for answer in answers if answer.caller.name == name]
        unattestable = [answer for answer in own if answer.attests is Attests.NOTHING]
        found[name] = {
            attests: worst(
                [answer for answer in own if answer.attests is attests]
                # What takes no attestation is answered the same whatever one attests.
                or unattestable
            )
            for attests in Attests
        }
    return found


def gathered(controls: Iterable[Answer]) -> list[tuple[Answer, str]]:
    """Return one answer for each principal, verdict and statement, with all actions it is about."""
    groups: dict[tuple[str, str, str | None], list[Answer]] = {}
    for answer in controls:
        found = row(answer)
        groups.setdefault((found.principal, found.verdict, found.statement), []).append(answer)
    return [
        (answers[0], ", ".join(answer.action for answer in answers)) for answers in groups.values()
    ]


def print_text(explanation: Explanation, console: Console) -> None:
    """Print the explanation for a person at a terminal."""
    style = {Door.CLOSED: "green", Door.OPEN: "red", Door.UNCERTAIN: "yellow"}[explanation.door]
    console.print(explanation.subject, style="bold", highlight=False)
    console.print(explanation.door.value, style=f"bold {style}")
    for key, answers in groupby(explanation.decryptions, key=lambda answer: answer.key):
        console.print()
        console.print(_decryption_table(key, list(answers)))
    console.print()
    console.print(_reasons(explanation.decryptions), highlight=False)
    console.print()
    console.print(_control_table(explanation.controls))


def _decryption_table(key: str, answers: Sequence[Answer]) -> Table:
    table = Table(title=f"Who can decrypt with {key}", title_justify="left")
    table.add_column("who", overflow="fold")
    for attests in Attests:
        table.add_column(attests.value)
    for name, cells in matrix(answers).items():
        table.add_row(name, *(_verdict(cells[attests]) for attests in Attests))
    return table


def _verdict(answer: Answer) -> str:
    verdict = answer.decision.verdict
    return verdict.value if intended(answer) else f"[{STYLES[verdict]}]{verdict.value}[/]"


def _reasons(answers: Sequence[Answer]) -> str:
    """Return each reason once, behind its verdict, the dangerous ones first."""
    reasons = dict.fromkeys(
        (SEVERITY.index(answer.decision.verdict), answer.decision.reason) for answer in answers
    )
    return "\n".join(
        f"{SEVERITY[severity].value}: {reason}"
        for severity, reason in sorted(reasons, reverse=True)
    )


def _control_table(answers: Sequence[Answer]) -> Table:
    table = Table(title="Who can change that", title_justify="left")
    for heading in ("who", "by", "verdict", "through"):
        table.add_column(heading, overflow="fold")
    for answer, actions in gathered(answers):
        through = statement(answer.decision) or ""
        table.add_row(answer.caller.name, actions, _verdict(answer), through)
    return table


@dataclass(frozen=True)
class Change:
    """One question that two documents answer differently; None: it does not come up there."""

    question: tuple[str, str, str]
    before: str | None
    after: str | None

    @property
    def gain(self) -> bool:
        """Say whether the newer document allows more."""
        rank = [None, *(verdict.value for verdict in SEVERITY)]
        denied = rank.index(Verdict.DENIED.value)
        return max(rank.index(self.after), denied) > max(rank.index(self.before), denied)


def differences(old: Explanation, new: Explanation) -> list[Change]:
    """Return who gains and who loses between two documents; the keys' names do not matter."""
    before, after = (
        {row(answer).question: row(answer).verdict for answer in each.answers}
        for each in (old, new)
    )
    changes = [
        Change(question, before.get(question), after.get(question))
        for question in dict.fromkeys([*before, *after])
    ]
    nothing = (None, Verdict.DENIED.value)
    return [
        change
        for change in changes
        if change.before != change.after
        and not (change.before in nothing and change.after in nothing)
    ]


def print_differences(old: Explanation, new: Explanation, console: Console) -> bool:
    """Print who gains and who loses; return whether anybody does."""
    changes = differences(old, new)
    if not changes:
        console.print(f"Nobody gains and nobody loses: {old.subject}, {new.subject}")
        return False
    table = Table(title=f"{old.subject} → {new.subject}", title_justify="left")
    for heading in ("", "who", "with", "does", "before", "after"):
        table.add_column(heading, overflow="fold")
    for change in sorted(changes, key=lambda change: not change.gain):
        sign = "[red]gains[/]" if change.gain else "[green]loses[/]"
        table.add_row(sign, *change.question, change.before or "–", change.after or "–")
    console.print(table)
    return True
