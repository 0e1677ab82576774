"""The explanation as one self-contained page that an auditor keeps and prints."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from itertools import groupby
from string import Template

import yaml

from generator import documents
from generator.access.answers import Answer, Attests
from generator.explain.drawing import drawing
from generator.explain.report import Door, Explanation, gathered, intended, matrix, statement
from generator.policy.evaluation import Verdict
from generator.sources import source

TONES = {Verdict.DENIED: "denied", Verdict.ALLOWED: "allowed", Verdict.CANNOT_PROVE: "doubt"}
DOORS = {Door.CLOSED: "denied", Door.OPEN: "allowed", Door.UNCERTAIN: "doubt"}


def page(explanation: Explanation) -> str:
    """Return the HTML page: verdict first, then who, through which statement, and the policy."""
    keys = groupby(explanation.decryptions, key=lambda answer: answer.key)
    picture = "" if documents.is_policy(explanation.document) else drawing(explanation.document)
    return Template(source("explain/page.html")).substitute(
        subject=escape(explanation.subject),
        tone=DOORS[explanation.door],
        verdict=escape(explanation.door.value),
        keys="\n".join(_key(explanation, name, list(answers)) for name, answers in keys),
        controls=_controls(explanation.controls),
        drawing=f"<h2>The template</h2>\n{picture}" if picture else "",
    )


def _key(explanation: Explanation, name: str, answers: Sequence[Answer]) -> str:
    head = "".join(f"<th scope=col>{escape(attests.value)}</th>" for attests in Attests)
    rows = "\n".join(
        f"<tr><th scope=row>{escape(who)}</th>"
        + "".join(_cell(cells[attests], f"with {attests.value}: ") for attests in Attests)
        + "</tr>"
        for who, cells in matrix(answers).items()
    )
    statements = "\n".join(_statements(explanation.document, name))
    return (
        f"<h2>Who can decrypt with {escape(name)}</h2>\n"
        f"{_table(f'<th></th>{head}', rows)}\n"
        f"<h2>The policy of {escape(name)}</h2>\n{statements}"
    )


def _cell(answer: Answer, label: str = "") -> str:
    verdict = answer.decision.verdict
    tone = "" if intended(answer) else TONES[verdict]
    return f'<td class="{tone}" data-label="{label}">{verdict.value}{_link(answer)}</td>'


def _link(answer: Answer) -> str:
    """Return a link to the deciding statement, or the reason where there is none."""
    decision = answer.decision
    name = statement(decision)
    if name is None or decision.policy != "key policy":
        return f"<br><small>{escape(decision.reason)}</small>"
    anchor = _anchor(answer.key, decision.statement or 0)
    return f'<a href="#{anchor}" title="{escape(decision.reason)}">{escape(name)}</a>'


def _anchor(key: str, index: int) -> str:
    return f"{escape(key)}-statement-{index + 1}"


def _statements(document: Mapping[str, object], key: str) -> Iterator[str]:
    """Yield each statement of a key's policy, as it stands in the document."""
    policy: object = document
    if not documents.is_policy(document):
        resources = document.get("Resources")
        resource = resources.get(key) if isinstance(resources, Mapping) else None
        properties = resource.get("Properties") if isinstance(resource, Mapping) else None
        policy = properties.get("KeyPolicy") if isinstance(properties, Mapping) else None
    statements = policy.get("Statement") if isinstance(policy, Mapping) else policy
    for index, each in enumerate(statements if isinstance(statements, list) else [statements]):
        text = escape(yaml.safe_dump(each, sort_keys=False, width=100))
        yield f'<pre id="{_anchor(key, index)}">{text}</pre>'


def _controls(answers: Sequence[Answer]) -> str:
    if not answers:
        return "<p>Nobody.</p>"
    rows = "\n".join(
        f"<tr><th scope=row>{escape(answer.caller.name)}</th><td>{escape(actions)}</td>"
        f"{_cell(answer)}</tr>"
        for answer, actions in gathered(answers)
    )
    return _table("<th>who</th><th>by</th><th>verdict</th>", rows)


def _table(head: str, rows: str) -> str:
    table = f"<table><thead><tr>{head}</tr></thead>\n<tbody>{rows}</tbody></table>"
    return f"<div class=scroll>{table}</div>"
