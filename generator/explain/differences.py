"""The differences between two documents: who gains access, bound images, who controls the key."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from generator.explain.report import NAMES, SEVERITY, BoundImage, Explanation, row
from generator.explain.text import NOTHING, plain
from generator.nodes import KMS_KEYS, listed, mapping, properties, resources
from generator.policy.evaluation import Verdict
from generator.policy.request import Leads
from generator.reading import documents

if TYPE_CHECKING:
    from rich.console import Console

    from generator.access.answers import Answer

SAME = "Nobody gains or loses access, and the key's policy and images stay the same"
ROOT = re.compile(r"arn:[^:]+:iam::(\d{12}):root")


@dataclass(frozen=True)
class Change:
    """A question that two documents answer differently; None if a document does not raise it."""

    principal: str
    attestation: str
    action: str
    before: str | None
    after: str | None

    @property
    def gain(self) -> bool:
        """Return whether the newer document allows more."""
        rank = [None, *(verdict.value for verdict in SEVERITY)]
        denied = rank.index(Verdict.DENIED.value)
        return max(rank.index(self.after), denied) > max(rank.index(self.before), denied)


@dataclass(frozen=True)
class Differences:
    """All differences; false if there are none.

    ``statements`` are those in only one of the documents' key policies, as JSON, whether they
    change an answer or not.
    """

    old: Explanation
    new: Explanation
    changes: list[Change] = field(default_factory=list)
    controls: list[Change] = field(default_factory=list)
    images_added: list[BoundImage] = field(default_factory=list)
    images_gone: list[BoundImage] = field(default_factory=list)
    statements_added: list[str] = field(default_factory=list)
    statements_gone: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        """Return whether anything differs."""
        return self.new.verdict is not self.old.verdict or any(
            (
                self.changes,
                self.controls,
                self.images_added,
                self.images_gone,
                self.statements_added,
                self.statements_gone,
            )
        )

    def as_json(self) -> str:
        """Return the differences as JSON."""

        def facts(changes: list[Change]) -> list[dict[str, object]]:
            return [{**asdict(change), "gain": change.gain} for change in changes]

        found = {
            "old": self.old.subject,
            "new": self.new.subject,
            "verdict": {"old": NAMES[self.old.verdict], "new": NAMES[self.new.verdict]},
            "images": {
                "added": [asdict(image) for image in self.images_added],
                "gone": [asdict(image) for image in self.images_gone],
            },
            "decryptions": facts(self.changes),
            "controls": facts(self.controls),
            "statements": {"added": self.statements_added, "gone": self.statements_gone},
        }
        return json.dumps(found, indent=2)


def differences(old: Explanation, new: Explanation) -> Differences:
    """Return the differences; the keys' names do not matter."""
    before, after = dict(_statements(old)), dict(_statements(new))
    return Differences(
        old,
        new,
        _changes(_other_than_control(old), _other_than_control(new)),
        _changes(_control(old), _control(new)),
        _without(new.images, old.images),
        _without(old.images, new.images),
        [shown for statement, shown in after.items() if statement not in before],
        [shown for statement, shown in before.items() if statement not in after],
    )


def _control(explanation: Explanation) -> list[Answer]:
    return [each for each in explanation.answers if each.leads is Leads.TO_CONTROL]


def _other_than_control(explanation: Explanation) -> list[Answer]:
    return [each for each in explanation.answers if each.leads is not Leads.TO_CONTROL]


def _changes(old: list[Answer], new: list[Answer]) -> list[Change]:
    before, after = _worst(old), _worst(new)
    nothing = (None, Verdict.DENIED.value)
    found = [
        Change(*question, before.get(question), after.get(question))
        for question in dict.fromkeys([*before, *after])
    ]
    changed = [
        each
        for each in found
        if each.before != each.after and not (each.before in nothing and each.after in nothing)
    ]
    return sorted(changed, key=lambda change: not change.gain)


def _worst(answers: list[Answer]) -> dict[tuple[str, str, str], str]:
    """Return the worst verdict of each question, over all keys."""
    found: dict[tuple[str, str, str], str] = {}
    rank = [verdict.value for verdict in SEVERITY]
    for each in map(row, answers):
        known = found.get(each.question, rank[0])
        found[each.question] = max(known, each.verdict, key=rank.index)
    return found


def _without(images: list[BoundImage], others: list[BoundImage]) -> list[BoundImage]:
    known = {(other.register.lower(), other.value.lower()) for other in others}
    return [each for each in images if (each.register.lower(), each.value.lower()) not in known]


def _statements(explanation: Explanation) -> Iterator[tuple[str, str]]:
    """Yield the statements of a document's key policies, as JSON to compare and to show.

    A statement's name does not matter.
    """
    document = explanation.document
    if documents.is_policy(document):
        policies: list[object] = [document]
    else:
        policies = [properties(key).get("KeyPolicy") for _, key in resources(document, *KMS_KEYS)]
    for policy in policies:
        if isinstance(policy, Mapping) and "Statement" in policy:
            for each in listed(policy["Statement"]):
                unnamed = {key: value for key, value in mapping(each).items() if key != "Sid"}
                yield canonical(unnamed or each), canonical(each)
        elif policy is not None:
            yield canonical(policy), canonical(policy)


def canonical(node: object) -> str:
    """Return *node* as text that is the same for a single item and a list of it, in any order."""
    return json.dumps(_ordered(node), sort_keys=True)


def _ordered(node: object) -> object:
    if isinstance(node, Mapping):
        return {key: _ordered(_in_one_form(key, value)) for key, value in node.items()}
    if isinstance(node, list):
        items = sorted((_ordered(item) for item in node), key=json.dumps)
        return items[0] if len(items) == 1 else items
    return str(node).lower() if isinstance(node, bool) else str(node)


def _in_one_form(member: object, value: object) -> object:
    """Return a statement's *member* in one form: KMS stores some in another form than given.

    An account's twelve digits become its root's ARN, and actions are not case-sensitive.
    """
    if member in ("Principal", "NotPrincipal"):
        named = {"AWS": "*"} if value == "*" else mapping(value)
        return {
            kind: [
                ROOT.sub(r"\1", str(name)) if isinstance(name, str) else name
                for name in listed(names)
            ]
            for kind, names in named.items()
        }
    if member in ("Action", "NotAction"):
        return [name.lower() if isinstance(name, str) else name for name in listed(value)]
    return value


def _account(principal: object) -> object:
    return ROOT.sub(r"\1", principal) if isinstance(principal, str) else principal


def print_differences(found: Differences, out: Console, *, judged: bool = True) -> None:
    """Print the differences as text; without the verdict on the keys if they are not *judged*."""
    names = f"{found.old.subject} → {found.new.subject}"
    if not found:
        out.print(plain(f"{SAME}: {names}"))
        if judged:
            out.print(found.new.sentence)
        return
    out.print(plain(names, "bold"))
    if judged:
        _print_verdicts(found, out)
    for sign, style, images in (
        ("no longer bound", "green", found.images_gone),
        ("newly bound", "red", found.images_added),
    ):
        for image in images:
            out.print(
                Text.assemble((sign, style), ": ", plain(f"{image.register} = {image.value}")),
                soft_wrap=True,
            )
    for title, changes in (("Who uses the key", found.changes), ("Who controls", found.controls)):
        if changes:
            out.print()
            out.print(_table(title, changes))
    for sign, statements in (("gone", found.statements_gone), ("new", found.statements_added)):
        for each in statements:
            out.print(plain(f"{sign} statement: {each}"), soft_wrap=True)


def _print_verdicts(found: Differences, out: Console) -> None:
    if found.old.verdict is found.new.verdict:
        out.print(f"Unchanged: {found.new.sentence}")
    else:
        out.print(f"Before: {found.old.sentence}")
        out.print(Text(f"Now: {found.new.sentence}", style="bold"))


def _table(title: str, changes: list[Change]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for heading in ("", "who", "with", "action", "before", "now"):
        table.add_column(heading, overflow="fold")
    for change in changes:
        sign = Text("gains", style="red") if change.gain else Text("loses", style="green")
        words = (change.principal, change.attestation, change.action)
        verdicts = (change.before or NOTHING, change.after or NOTHING)
        table.add_row(sign, *map(plain, (*words, *verdicts)))
    return table
