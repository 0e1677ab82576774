"""The differences between two documents: who gains access, bound images, who controls the key."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from generator.explain.report import NAMES, SEVERITY, BoundImage, Explanation, row
from generator.explain.text import NOTHING, plain
from generator.nodes import listed, mapping, properties
from generator.policy.evaluation import Verdict
from generator.policy.request import Leads
from generator.reading import documents

if TYPE_CHECKING:
    from rich.console import Console

    from generator.access.answers import Answer

NEUTRAL = ("ConstraintDescription", "DependsOn", "Description", "Metadata")
"""Members of a key or a parameter that change neither what it is nor what it allows."""
DEFAULTS: Mapping[str, object] = {
    "Enabled": True,
    "EnableKeyRotation": False,
    "KeySpec": "SYMMETRIC_DEFAULT",
    "KeyUsage": "ENCRYPT_DECRYPT",
    "MultiRegion": False,
    "Origin": "AWS_KMS",
}
"""A key's properties that may be absent, with what that means.

Source: https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-resource-kms-key.html
"""
SAME = "Nobody gains or loses access, and the key's policy and images stay the same"
ROOT = re.compile(r"arn:[^:]+:iam::(\d{12}):root")


@dataclass(frozen=True)
class Change:
    """A question that two documents answer differently; None if a document does not raise it."""

    key: str
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
class Setting:
    """A property of a key, or a member of the template's parameters and the like, that differs.

    ``before`` and ``after`` are JSON; None if a document does not set it.
    """

    name: str
    before: str | None
    after: str | None

    def __str__(self) -> str:
        """Return it as a line of a report."""
        return f"{self.name}: {self.before or NOTHING} → {self.after or NOTHING}"


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
    settings: list[Setting] = field(default_factory=list)

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
                self.settings,
            )
        )

    def by_key(self, title: str, changes: list[Change]) -> Iterator[tuple[str, list[Change]]]:
        """Yield the *changes* of each key, under *title* and, of several keys, the key's name."""
        for key, own in groupby(changes, key=lambda change: change.key):
            yield f"{title}{self.of(key)}", list(own)

    def of(self, key: str) -> str:
        """Return the end of a title about *key*: its name, if there are several keys."""
        return f": {key}" if max(len(self.old.keys), len(self.new.keys)) > 1 else ""

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
            "settings": [asdict(setting) for setting in self.settings],
        }
        return json.dumps(found, indent=2)


def differences(old: Explanation, new: Explanation) -> Differences:
    """Return the differences, of each key on its own; the name of an only key does not matter."""
    found = Differences(old, new, settings=_template_settings(old.document, new.document))
    for before, after in _pairs(old, new):
        name = str(after or before)
        answers = _answers(old, before), _answers(new, after)
        found.changes.extend(_changes(name, *map(_other_than_control, answers)))
        found.controls.extend(_changes(name, *map(_control, answers)))
        images = _images(old, before), _images(new, after)
        found.images_added.extend(_without(images[1], images[0]))
        found.images_gone.extend(_without(images[0], images[1]))
        gone, added = (dict(_statements(*each)) for each in ((old, before), (new, after)))
        found.statements_added.extend(added[each] for each in added if each not in gone)
        found.statements_gone.extend(gone[each] for each in gone if each not in added)
        found.settings.extend(_key_settings(old, before, new, after))
    return found


def _pairs(old: Explanation, new: Explanation) -> list[tuple[str | None, str | None]]:
    """Return the keys' names in both documents, None where a document does not have the key."""
    before, after = ([key.key for key in each.keys] for each in (old, new))
    if len(before) == len(after) == 1:
        return [(before[0], after[0])]
    names = dict.fromkeys([*before, *after])
    return [(name if name in before else None, name if name in after else None) for name in names]


def _answers(explanation: Explanation, name: str | None) -> list[Answer]:
    return [each for key in explanation.keys if key.key == name for each in key.answers]


def _images(explanation: Explanation, name: str | None) -> list[BoundImage]:
    return [image for image in explanation.images if image.key == name]


def _control(answers: list[Answer]) -> list[Answer]:
    return [each for each in answers if each.leads is Leads.TO_CONTROL]


def _other_than_control(answers: list[Answer]) -> list[Answer]:
    return [each for each in answers if each.leads is not Leads.TO_CONTROL]


def _changes(key: str, old: list[Answer], new: list[Answer]) -> list[Change]:
    before, after = _worst(old), _worst(new)
    nothing = (None, Verdict.DENIED.value)
    found = [
        Change(key, *question, before.get(question), after.get(question))
        for question in dict.fromkeys([*before, *after])
    ]
    changed = [
        each
        for each in found
        if each.before != each.after and not (each.before in nothing and each.after in nothing)
    ]
    return sorted(changed, key=lambda change: not change.gain)


def _worst(answers: list[Answer]) -> dict[tuple[str, str, str], str]:
    """Return the worst verdict of each question about a key."""
    found: dict[tuple[str, str, str], str] = {}
    rank = [verdict.value for verdict in SEVERITY]
    for each in map(row, answers):
        known = found.get(each.question, rank[0])
        found[each.question] = max(known, each.verdict, key=rank.index)
    return found


def _template_settings(old: Mapping[str, object], new: Mapping[str, object]) -> list[Setting]:
    """Return what differs in the sections on which the meaning of a key's policy may depend."""
    if documents.is_policy(old) or documents.is_policy(new):
        return []
    found = []
    for section in ("Parameters", "Mappings", "Conditions"):
        before, after = (mapping(each.get(section)) for each in (old, new))
        for name in dict.fromkeys([*before, *after]):
            title = f"{section.removesuffix('s').lower()} {name}"
            found += _settings(title, _members(before.get(name)), _members(after.get(name)))
    return found + _settings(
        "template", *({"Transform": each.get("Transform")} for each in (old, new))
    )


def _members(node: object) -> Mapping[str, object]:
    """Return the members of a parameter, mapping or condition."""
    return node if isinstance(node, Mapping) else {"value": node}


def _key_settings(
    old: Explanation, before: str | None, new: Explanation, after: str | None
) -> list[Setting]:
    if before is None or after is None:
        known = ("declared" if each else None for each in (before, after))
        return [Setting(f"key {after or before}", *known)]
    documented = old.document, new.document
    if any(map(documents.is_policy, documented)):
        return []
    keys = (
        mapping(mapping(document.get("Resources")).get(name))
        for document, name in zip(documented, (before, after), strict=True)
    )
    return _settings(f"key {after}", *map(_key_members, keys))


def _key_members(key: Mapping[str, object]) -> dict[str, object]:
    """Return what a key's resource sets, without the statements of its policy."""
    policy = mapping(properties(key).get("KeyPolicy"))
    found = {"policy's Version": policy.get("Version"), **key, **DEFAULTS, **properties(key)}
    return {name: each for name, each in found.items() if name not in ("KeyPolicy", "Properties")}


def _settings(
    title: str, before: Mapping[str, object], after: Mapping[str, object]
) -> list[Setting]:
    found = []
    for name in dict.fromkeys([*before, *after]):
        values = [
            None if each.get(name) is None else canonical(each[name]) for each in (before, after)
        ]
        if values[0] != values[1] and name not in NEUTRAL:
            found.append(Setting(f"{title}, {name}", *values))
    return found


def _without(images: list[BoundImage], others: list[BoundImage]) -> list[BoundImage]:
    known = {(other.register.lower(), other.value.lower()) for other in others}
    return [each for each in images if (each.register.lower(), each.value.lower()) not in known]


def _statements(explanation: Explanation, key: str | None) -> Iterator[tuple[str, str]]:
    """Yield the statements of the policy of *key*, as JSON to compare and to show.

    A statement's name does not matter.
    """
    document = explanation.document
    if key is None:
        return
    policy: object = document
    if not documents.is_policy(document):
        policy = properties(mapping(document.get("Resources")).get(key)).get("KeyPolicy")
    if isinstance(policy, Mapping) and "Statement" in policy:
        for each in listed(policy["Statement"]):
            unnamed = {name: value for name, value in mapping(each).items() if name != "Sid"}
            yield canonical(unnamed or each), canonical(each)
    elif policy is not None:
        yield canonical(policy), canonical(policy)


def canonical(node: object) -> str:
    """Return *node* as text that is the same for a single item and a list of it, in any order."""
    return json.dumps(_ordered(node), sort_keys=True)


def _ordered(node: object) -> object:
    if isinstance(node, Mapping):
        return {str(key): _ordered(_in_one_form(key, value)) for key, value in node.items()}
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
    _print_images(found, out)
    for title, changes in (("Who uses the key", found.changes), ("Who controls", found.controls)):
        if changes:
            out.print()
            for heading, own in found.by_key(title, changes):
                out.print(_table(heading, own))
    for sign, statements in (("gone", found.statements_gone), ("new", found.statements_added)):
        for each in statements:
            out.print(plain(f"{sign} statement: {each}"), soft_wrap=True)
    for setting in found.settings:
        out.print(plain(setting), soft_wrap=True)


def _print_images(found: Differences, out: Console) -> None:
    for sign, style, images in (
        ("no longer bound", "green", found.images_gone),
        ("newly bound", "red", found.images_added),
    ):
        for image in images:
            out.print(
                Text.assemble(
                    (sign, style),
                    plain(f"{found.of(image.key)}: {image.register} = {image.value}"),
                ),
                soft_wrap=True,
            )


def _print_verdicts(found: Differences, out: Console) -> None:
    if found.old.verdict is found.new.verdict:
        out.print(f"Unchanged: {found.new.sentence}")
    else:
        out.print(f"Before: {found.old.sentence}")
        out.print(Text(f"Now: {found.new.sentence}", style="bold"))


def _table(title: str, changes: list[Change]) -> Table:
    table = Table(title=plain(title), title_justify="left", box=box.SIMPLE_HEAD)
    for heading in ("", "who", "with", "action", "before", "now"):
        table.add_column(heading, overflow="fold")
    for change in changes:
        sign = Text("gains", style="red") if change.gain else Text("loses", style="green")
        words = (change.principal, change.attestation, change.action)
        verdicts = (change.before or NOTHING, change.after or NOTHING)
        table.add_row(sign, *map(plain, (*words, *verdicts)))
    return table
