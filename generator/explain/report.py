"""Who can decrypt, as a report: `text`, `page` and JSON present the same content.

The answers come from ``generator.access``; nothing here knows what a policy means.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from generator.access.answers import NO_REQUEST, Answer, Attests, KeyAccess, Outcome, Remark
from generator.access.plain import plain
from generator.access.questions import accesses, policy_access
from generator.errors import GeneratorError
from generator.policy.evaluation import Decision, Verdict
from generator.policy.request import Grant, Leads
from generator.reading import bare_policy, documents
from generator.reading.documents import Document, Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

SEVERITY = (Verdict.DENIED, Verdict.CANNOT_PROVE, Verdict.ALLOWED)
SENTENCES = {
    Outcome.CLOSED: "Nobody decrypts without attesting a bound image.",
    Outcome.OPEN: "Somebody decrypts without attesting a bound image.",
    Outcome.UNDECIDED: (
        "It cannot be proved that nobody decrypts without attesting a bound image."
    ),
}
"""The verdict as a sentence."""
NAMES = {Outcome.CLOSED: "closed", Outcome.OPEN: "open", Outcome.UNDECIDED: "uncertain"}
"""The verdict in JSON."""
WHOLE_IMAGE = ("imagesha384", "pcr0")
"""Registers whose digest is an image's PCR0, in lower case."""


@dataclass(frozen=True)
class Row:
    """One answered question: may *principal* do *action* with *attestation*, and why.

    ``given`` describes the callers, parameters and condition keys that it depends on; empty if it
    holds for any.
    """

    key: str
    principal: str
    attestation: str
    action: str
    verdict: str
    statement: str | None
    reason: str
    given: str
    counterexample: Mapping[str, Any] | None = None

    @property
    def question(self) -> tuple[str, str, str]:
        """Return the question without the key's name."""
        return self.principal, self.attestation, self.action


@dataclass(frozen=True)
class BoundImage:
    """A digest that a key's policy names, and the image files with that measurement.

    ``value`` is the digits, or the name of the parameter that will hold them.
    """

    key: str
    register: str
    value: str
    is_parameter: bool = False
    files: Sequence[str] = ()

    @property
    def is_debug(self) -> bool:
        """Return whether it is zeros, which every image attests in debug mode."""
        return self.register.lower() in WHOLE_IMAGE and not self.value.strip("0")


@dataclass(frozen=True)
class Explanation:
    """All that is known about the keys of one document, or about one live key.

    Attributes:
        subject: its name in messages.
        keys: the answers about each key.
        document: the template, or the policy.
        sha256: of the file, in hexadecimal digits; None if there is no file.
        facts: further information from AWS, such as aliases.
        drift: how a live key differs from its stack's template.
        unread: what could not be read, and why.
        files: names of image files, by the PCR0 that they measure.
    """

    subject: str
    keys: Sequence[KeyAccess]
    document: Mapping[str, object] = field(default_factory=dict)
    sha256: str | None = None
    facts: Sequence[str] = ()
    drift: Sequence[str] = ()
    unread: Sequence[str] = ()
    files: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def answers(self) -> list[Answer]:
        """Return the answers about all keys."""
        return [answer for key in self.keys for answer in key.answers]

    @property
    def decryptions(self) -> list[Answer]:
        """Return the answers about plaintext."""
        return [answer for answer in self.answers if answer.leads is Leads.TO_PLAINTEXT]

    @property
    def controls(self) -> list[Answer]:
        """Return who may, or possibly may, control the key."""
        return [
            answer
            for answer in self.answers
            if answer.leads is Leads.TO_CONTROL and answer.verdict is not Verdict.DENIED
        ]

    @property
    def remarks(self) -> list[Remark]:
        """Return further remarks about the keys."""
        return [remark for key in self.keys for remark in key.remarks]

    @property
    def verdict(self) -> Outcome:
        """Return the verdict on all keys together; nothing is proved if something is unread."""
        found = {key.verdict for key in self.keys}
        if Outcome.OPEN in found:
            return Outcome.OPEN
        undecided = Outcome.UNDECIDED in found or self.unread
        return Outcome.UNDECIDED if undecided else Outcome.CLOSED

    @property
    def sentence(self) -> str:
        """Return the verdict in a sentence."""
        return SENTENCES[self.verdict]

    @property
    def images(self) -> list[BoundImage]:
        """Return the digests that the policies name."""
        return [
            BoundImage(
                key.key,
                _register_name(image.register),
                image.value,
                image.is_parameter,
                self.files.get(_digits(image.register, image.value), ()),
            )
            for key in self.keys
            for image in key.images
        ]

    @property
    def unbound_files(self) -> dict[str, Sequence[str]]:
        """Return the image files that no policy names, by their PCR0."""
        bound = {_digits(image.register, image.value) for image in self.images}
        return {pcr0: names for pcr0, names in self.files.items() if pcr0 not in bound}

    @property
    def outsiders_control(self) -> bool:
        """Return whether somebody outside the key's account may, or possibly may, control it."""
        return any(answer.caller.outsider for answer in self.controls)

    @property
    def alarming(self) -> bool:
        """Return whether the exit status is 1."""
        proved = self.verdict is Outcome.CLOSED
        return not proved or self.outsiders_control or bool(self.drift)

    def as_json(self) -> str:
        """Return the explanation as JSON."""
        found = {
            "subject": self.subject,
            "sha256": self.sha256,
            "verdict": NAMES[self.verdict],
            "images": [asdict(image) for image in self.images],
            "unbound_files": self.unbound_files,
            "decryptions": [asdict(row(answer)) for answer in self.decryptions],
            "controls": [asdict(row(answer)) for answer in self.controls],
            "remarks": [{"kind": each.kind, "text": each.text} for each in self.remarks],
            "drift": list(self.drift),
            "unread": list(self.unread),
        }
        return json.dumps(found, indent=2)


def _register_name(register: str) -> str:
    """Return a register's name as AWS writes it: condition keys are not case-sensitive."""
    names = {"imagesha384": "ImageSha384", "nitrotpmpcr": "NitroTPMPCR", "pcr": "PCR"}
    lower = register.lower()
    start = next((each for each in names if lower.startswith(each)), "")
    return f"{names[start]}{lower.removeprefix(start)}" if start else register


def _digits(register: str, value: str) -> str:
    """Return the value if the register is PCR0, else an empty text."""
    return value.lower() if register.lower() in WHOLE_IMAGE else ""


def explain(name: str, owner: str | None = None, usage: str | None = None) -> Explanation:
    """Explain the document in the file *name*; see `explain_loaded`.

    Raises:
        GeneratorError: it cannot be read, or has no key.
    """
    return explain_loaded(documents.load(name), owner, usage)


def explain_loaded(
    document: Document, owner: str | None = None, usage: str | None = None
) -> Explanation:
    """Explain a document as it was read.

    Args:
        document: a template, a key policy, or a Terraform plan.
        owner: the account that owns the key of a key policy; by default the one that most likely
            does.
        usage: the KeyUsage of the key of a key policy; by default it encrypts.

    Raises:
        GeneratorError: it is something else, or has no key.
    """
    if document.kind is Kind.OTHER:
        raise GeneratorError(
            f"{document.name}: has neither Resources nor a Statement: pass a template or a policy"
        )
    found = explain_document(document.content, document.name, owner=owner, usage=usage)
    return replace(found, sha256=document.sha256)


def explain_document(
    document: Mapping[str, object],
    subject: str,
    grants: Sequence[Grant] = (),
    *,
    owner: str | None = None,
    usage: str | None = None,
) -> Explanation:
    """Explain a template or a key policy, already decoded; as for `explain_loaded`.

    Raises:
        GeneratorError: a template without a key.
    """
    if documents.is_policy(document):
        account = owner or bare_policy.likely_owner(document) or ""
        access = policy_access(document, account, grants, usage=usage or "ENCRYPT_DECRYPT")
        return Explanation(subject, [access], document)
    if owner or usage:
        raise GeneratorError(
            f"{subject}: is a template, which states the key's owner and usage itself: "
            "leave out --owner and --usage"
        )
    keys = accesses(document)
    if not keys:
        raise GeneratorError(f"{subject}: declares no KMS key: pass a template that declares one")
    return Explanation(subject, keys, document)


# --- answers as rows ------------------------------------------------------------------------------


def row(answer: Answer) -> Row:
    """Return *answer* in plain text."""
    return Row(
        key=answer.key,
        principal=answer.caller.name,
        attestation=answer.attests.value,
        action=answer.action,
        verdict=answer.verdict.value,
        statement=statement(answer.decision),
        reason=answer.decision.reason,
        given=answer.given,
        counterexample=plain(answer.counterexample) if answer.counterexample else None,
    )


def statement(decision: Decision) -> str | None:
    """Return the name of the deciding statement, None if there is none."""
    if decision.statement is None:
        return None
    if decision.policy.startswith("grant"):  # a grant that somebody could create
        return "a grant"
    return decision.sid or f"{decision.policy}, statement {decision.statement + 1}"


def intended(answer: Answer) -> bool:
    """Return whether "allowed" is intended: a bound image decrypts, the key's account controls."""
    governs = answer.leads is Leads.TO_CONTROL and not answer.caller.outsider
    return answer.verdict is Verdict.ALLOWED and (governs or answer.attests is Attests.BOUND)


def worst(answers: Iterable[Answer]) -> Answer:
    """Return the most dangerous answer."""
    return max(answers, key=lambda answer: SEVERITY.index(answer.verdict))


def matrix(answers: Sequence[Answer]) -> dict[str, dict[Attests, Answer]]:
    """Map each principal to the worst answer for each attestation, over all actions."""
    found: dict[str, dict[Attests, Answer]] = {}
    for name in dict.fromkeys(answer.caller.name for answer in answers):
        own = [answer for answer in answers if answer.caller.name == name]
        unattestable = [answer for answer in own if answer.attests is Attests.NOTHING]
        found[name] = {
            attests: worst(
                [answer for answer in own if answer.attests is attests]
                # An action that takes no attestation has one answer for all attestations.
                or unattestable
                or own
            )
            for attests in Attests
        }
    return found


def gathered(controls: Iterable[Answer]) -> list[tuple[Answer, str]]:
    """Return one answer for each principal, verdict and statement, with all its actions."""
    groups: dict[tuple[str, ...], list[Answer]] = {}
    for answer in controls:
        found = row(answer)
        index = (found.key, found.principal, found.verdict, found.statement or "", found.given)
        groups.setdefault(index, []).append(answer)
    return [
        (answers[0], ", ".join(dict.fromkeys(answer.action for answer in answers)))
        for answers in groups.values()
    ]


def reasons(
    rows: Mapping[str, Mapping[Attests, Answer]],
) -> dict[tuple[Verdict, str], dict[str, list[Attests]]]:
    """Map each verdict and reason to the cells of a `matrix` that it decides, dangerous ones first.

    Left out is the denial for which no statement can be named.
    """
    found: dict[tuple[Verdict, str], dict[str, list[Attests]]] = {}
    for name, cells in rows.items():
        for attests, answer in cells.items():
            if answer.decision.reason != NO_REQUEST:
                way = answer.verdict, answer.decision.reason
                found.setdefault(way, {}).setdefault(name, []).append(attests)
    return dict(sorted(found.items(), key=lambda each: -SEVERITY.index(each[0][0])))


def counterexamples(explanation: Explanation) -> list[Answer]:
    """Return one answer with a counterexample for each statement that lets somebody in.

    Everybody else whom the statement lets in is in the table. The counterexample is the one that
    attests the least: what works without attestation works with any.
    """
    found: dict[object, Answer] = {}
    order = [Attests.NOTHING, Attests.DEBUG, Attests.OTHER]
    unbound = [each for each in explanation.decryptions if each.attests in order]
    shown = [
        *sorted(unbound, key=lambda each: order.index(each.attests)),
        *(each for each in explanation.controls if each.caller.outsider),
    ]
    for answer in shown:
        if answer.verdict is Verdict.ALLOWED and answer.counterexample:
            way = (answer.key, answer.leads, answer.decision.reason)
            found.setdefault(way, answer)
    return list(found.values())
