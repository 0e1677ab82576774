"""The explanation as one self-contained HTML page, to keep or to print."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from importlib.metadata import PackageNotFoundError, version
from itertools import groupby
from typing import TYPE_CHECKING

import yaml

from generator import pages
from generator.access.answers import Answer, Attests, Outcome
from generator.explain.differences import SAME
from generator.explain.drawing import drawing
from generator.explain.report import (
    Explanation,
    counterexamples,
    gathered,
    intended,
    matrix,
    row,
    statement,
)
from generator.explain.text import NOTHING, described, image_name, introduction
from generator.nodes import listed, mapping, properties
from generator.policy.evaluation import Verdict
from generator.reading import documents
from generator.terminal import escaped

if TYPE_CHECKING:
    from generator.explain.differences import Change, Differences

PROGRAM = "application-encryptor"
TONES = {Verdict.DENIED: "good", Verdict.ALLOWED: "bad", Verdict.CANNOT_PROVE: "unknown"}
VERDICT_TONES = {
    Outcome.CLOSED: "good",
    Outcome.OPEN: "bad",
    Outcome.UNDECIDED: "unknown",
}
GLOSSARY = {
    "attestation": (
        "a document, signed by AWS's Nitro hardware, that says which image an enclave runs"
    ),
    "PCR0": "the SHA-384 digest of a whole enclave image, 96 hexadecimal digits",
    "bound image": "an enclave image whose PCR0 the key's policy names",
    "debug mode": "a mode in which the host can read an enclave's console; it attests zeros",
    "key policy": "the document attached to a KMS key that says who may use the key",
    "statement": "one rule of a policy: it allows or denies actions to principals, on conditions",
    "grant": "a permission on a key that is given without changing the key's policy",
    "counterexample": "a concrete request that KMS allows although no bound image is attested",
    "proved": "a solver found no such request, for any value that template and AWS leave open",
    "drift": "the difference between a key on AWS and what its stack's template specifies",
}
"""The terms that the page uses, each explained."""


def page(explanation: Explanation) -> str:
    """Return the HTML page: the verdict first, then the evidence for it."""
    keys = groupby(explanation.decryptions, key=lambda answer: answer.key)
    picture = drawing(explanation.document, explanation.keys)
    parts = [
        _lines(explanation.facts),
        _lines(explanation.unread),
        _images(explanation),
        *(_decryptions(name, list(answers)) for name, answers in keys),
        _counterexamples(explanation),
        _listed("Also", [remark.text for remark in explanation.remarks]),
        _listed("Drift", explanation.drift),
        *(_policy(explanation.document, key.key) for key in explanation.keys),
        _controls(explanation.controls),
        f"<h2>Who may do what</h2>\n{picture}" if picture else "",
    ]
    return _filled(
        explanation.subject,
        VERDICT_TONES[explanation.verdict],
        explanation.sentence,
        parts,
        explanation.sha256,
    )


def differences_page(found: Differences) -> str:
    """Return the HTML page about what differs between two documents."""
    subject = f"{found.old.subject} → {found.new.subject}"
    before = [f"Before: {found.old.sentence}"] if found else [f"{SAME}."]
    images = [f"newly bound: {each.register} = {each.value}" for each in found.images_added]
    images += [f"no longer bound: {each.register} = {each.value}" for each in found.images_gone]
    statements = [f"new: {each}" for each in found.statements_added]
    statements += [f"gone: {each}" for each in found.statements_gone]
    parts = [
        _lines(before),
        _listed("Bound images", images),
        *(_changes(*each) for each in found.by_key("Who uses the key", found.changes)),
        *(_changes(*each) for each in found.by_key("Who controls it", found.controls)),
        _listed("Statements", statements),
        _listed("Settings", [str(each) for each in found.settings]),
    ]
    tone = VERDICT_TONES[found.new.verdict]
    return _filled(subject, tone, found.new.sentence, parts, found.new.sha256)


def _filled(subject: str, tone: str, verdict: str, parts: Sequence[str], sha256: str | None) -> str:
    terms = "\n".join(
        f"<dt>{escape(word)}</dt><dd>{escape(meaning)}</dd>" for word, meaning in GLOSSARY.items()
    )
    return pages.page(
        "explain",
        "Who can decrypt",
        subject=_text(subject),
        tone=tone,
        verdict=escape(verdict),
        parts="\n".join(filter(None, parts)),
        glossary=terms,
        origin=f"{PROGRAM} {tool_version()}, {_today()}",
        digest=f"SHA-256 of the file: <code>{escape(sha256)}</code><br>" if sha256 else "",
    )


def tool_version() -> str:
    """Return this program's version."""
    try:
        return version(PROGRAM)
    except PackageNotFoundError:
        return "(not installed)"


def _today() -> str:
    """Return today's date, or the one in SOURCE_DATE_EPOCH, for reproducible output.

    Source: https://reproducible-builds.org/specs/source-date-epoch/
    """
    stated = os.environ.get("SOURCE_DATE_EPOCH", "")
    now = dt.datetime.fromtimestamp(int(stated), dt.UTC) if stated.isdecimal() else None
    return (now or dt.datetime.now(dt.UTC)).date().isoformat()


def _text(value: object) -> str:
    """Return text from a document, with markup and control characters escaped."""
    return escape(escaped(str(value)))


def _lines(lines: Sequence[str]) -> str:
    return "\n".join(f"<p>{_text(line)}</p>" for line in lines)


def _listed(title: str, items: Sequence[str]) -> str:
    if not items:
        return ""
    return f"<h2>{title}</h2>\n<ul>{''.join(f'<li>{_text(item)}</li>' for item in items)}</ul>"


def _images(explanation: Explanation) -> str:
    items = []
    for image in explanation.images:
        files = f" ({', '.join(image.files)})" if image.files else ""
        digits = "" if image.is_parameter else f"<br><code>{_text(image.value)}</code>"
        items.append(f"<li>{escape(image_name(image))}{_text(files)}{digits}</li>")
    for pcr0, names in explanation.unbound_files.items():
        items.append(f"<li>not bound: {_text(', '.join(names))}<br><code>{pcr0}</code></li>")
    if not explanation.images:
        items.insert(0, "<li>none: the policy names no image's digest</li>")
    return f"<h2>Bound images</h2>\n<ul>{''.join(items)}</ul>"


def _decryptions(name: str, answers: Sequence[Answer]) -> str:
    head = "".join(f"<th scope=col>{escape(attests.value)}</th>" for attests in Attests)
    rows = "\n".join(
        f"<tr><th scope=row>{_text(who)}</th>"
        + "".join(_cell(cells[attests], f"with {attests.value}: ") for attests in Attests)
        + "</tr>"
        for who, cells in matrix(answers).items()
    )
    return f"<h2>Who can decrypt with {_text(name)}</h2>\n{_table(f'<th></th>{head}', rows)}"


def _cell(answer: Answer, label: str = "") -> str:
    verdict = answer.verdict
    tone = "" if intended(answer) else TONES[verdict]
    return f'<td class="{tone}" data-label="{label}">{verdict.value}{_link(answer)}</td>'


def _link(answer: Answer) -> str:
    """Return a link to the deciding statement, or the reason if there is none."""
    decision = answer.decision
    name = statement(decision)
    if name is None or decision.policy != "key policy":
        return f"<br><small>{_text(decision.reason)}</small>"
    anchor = _anchor(answer.key, decision.statement or 0)
    return f'<a href="#{anchor}" title="{_text(decision.reason)}">{_text(name)}</a>'


def _anchor(key: str, index: int) -> str:
    return f"{_text(key)}-statement-{index + 1}"


def _counterexamples(explanation: Explanation) -> str:
    found = []
    for answer in counterexamples(explanation):
        parts = "".join(
            f"<dt>{escape(name)}</dt><dd>{_text(value)}</dd>"
            for name, value in described(row(answer).counterexample or {})
        )
        found.append(f"<h3>{_text(introduction(answer))}</h3>\n<dl>{parts}</dl>")
    return "\n".join(["<h2>Counterexamples</h2>", *found]) if found else ""


def _policy(document: Mapping[str, object], key: str) -> str:
    blocks = "\n".join(_statements(document, key))
    return f"<h2>The policy of {_text(key)}</h2>\n{blocks}"


def _statements(document: Mapping[str, object], key: str) -> Iterator[str]:
    """Yield each statement of a key's policy, as written in the document."""
    policy: object = document
    if not documents.is_policy(document):
        policy = properties(mapping(document.get("Resources")).get(key)).get("KeyPolicy")
    found = policy.get("Statement") if isinstance(policy, Mapping) else policy
    for index, each in enumerate(listed(found)):
        text = _text_block(yaml.safe_dump(each, sort_keys=False, width=100, allow_unicode=True))
        yield f'<pre id="{_anchor(key, index)}">{text}</pre>'


def _text_block(text: str) -> str:
    return "\n".join(_text(line) for line in text.splitlines())


def _controls(answers: Sequence[Answer]) -> str:
    rows = "\n".join(
        f"<tr><th scope=row>{_text(_who(answer))}</th><td>{_text(actions)}</td>{_cell(answer)}</tr>"
        for answer, actions in gathered(answers)
    )
    body = _table("<th>who</th><th>by</th><th>verdict</th>", rows) if rows else "<p>Nobody.</p>"
    note = (
        "Anyone who may call one of these can change who decrypts, or disable or delete the key. "
        "CloudTrail records each call."
    )
    return f"<h2>Who can change that</h2>\n<p>{note}</p>\n{body}"


def _who(answer: Answer) -> str:
    return f"{answer.caller.name}, {answer.given}" if answer.given else answer.caller.name


def _changes(title: str, changes: Sequence[Change]) -> str:
    if not changes:
        return ""
    rows = "\n".join(
        f'<tr><td class="{"bad" if change.gain else "good"}">'
        f"{'gains' if change.gain else 'loses'}</td><th scope=row>{_text(change.principal)}</th>"
        f"<td>{_text(change.attestation)}</td><td>{_text(change.action)}</td>"
        f"<td>{change.before or NOTHING}</td><td>{change.after or NOTHING}</td></tr>"
        for change in changes
    )
    head = "".join(f"<th>{each}</th>" for each in ("", "who", "with", "action", "before", "now"))
    return f"<h2>{_text(title)}</h2>\n{_table(head, rows)}"


def _table(head: str, rows: str) -> str:
    table = f"<table><thead><tr>{head}</tr></thead>\n<tbody>{rows}</tbody></table>"
    return f"<div class=scroll>{table}</div>"
