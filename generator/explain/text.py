"""The explanation as text, for a terminal or a pipe.

Names come from untrusted documents: markup and control characters in them have no effect.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table
from rich.text import Text

from generator.access.answers import Answer, Attests, Outcome
from generator.explain.report import (
    BoundImage,
    Explanation,
    counterexamples,
    gathered,
    intended,
    matrix,
    reasons,
    row,
    statement,
)
from generator.policy.evaluation import Verdict
from generator.terminal import escaped

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import Console

STYLES = {Verdict.DENIED: "green", Verdict.CANNOT_PROVE: "yellow", Verdict.ALLOWED: "red"}
VERDICT_STYLES = {Outcome.CLOSED: "green", Outcome.UNDECIDED: "yellow", Outcome.OPEN: "red"}
HEADINGS = {
    Attests.NOTHING: "no attestation",
    Attests.DEBUG: "debug enclave",
    Attests.OTHER: "other image",
    Attests.BOUND: "bound image",
}
PLACES = {"AWS::Partition": "partition", "AWS::Region": "region", "AWS::AccountId": "account"}
"""Pseudo parameters, each with a name that also fits a key policy outside of CloudFormation."""
NOTHING = "\N{EN DASH}"


def plain(value: object, style: str = "") -> Text:
    """Return text from a document, with markup and control characters escaped."""
    return Text(escaped(str(value)), style=style)


def print_text(explanation: Explanation, out: Console) -> None:
    """Print the verdict, the bound images, who decrypts and how, and who may change that."""
    out.print(plain(explanation.subject, "bold"), soft_wrap=True)
    style = VERDICT_STYLES[explanation.verdict]
    out.print(Text(explanation.sentence, style=f"bold {style}"))
    for fact in (*explanation.facts, *explanation.unread):
        out.print(plain(fact), soft_wrap=True)  # an ARN is copied as one word
    _print_images(explanation, out)
    for key, answers in groupby(explanation.decryptions, key=lambda answer: answer.key):
        out.print()
        cells = matrix(list(answers))
        out.print(_decryption_table(key, cells))
        _print_reasons(cells, out)
    _print_counterexamples(explanation, out)
    out.print()
    out.print(_control_table(explanation.controls))
    for remark in explanation.remarks:
        out.print(plain(f"note: {remark.text}"))
    for difference in explanation.drift:
        out.print(plain(f"drift: {difference}", "red"), soft_wrap=True)


def _print_images(explanation: Explanation, out: Console) -> None:
    out.print()
    out.print(Text("Bound images", style="italic"))
    if not explanation.images:
        out.print("  none: the policy names no image's digest")
    for image in explanation.images:
        out.print(Text.assemble(f"  {image_name(image)}", _files(image)))
        if not image.is_parameter:  # on a line of its own, easy to copy
            out.print(plain(f"  {image.value}"), soft_wrap=True)
    for pcr0, names in explanation.unbound_files.items():
        out.print(plain(f"  not bound: {', '.join(names)}"))
        out.print(plain(f"  {pcr0}"), soft_wrap=True)


def image_name(image: BoundImage) -> str:
    """Return the line above a bound image's digits."""
    held = f" = the parameter {image.value}" if image.is_parameter else ""
    if image.is_debug:
        held = ", zeros: a debug enclave, not an image"
    return escaped(f"{image.key}: {image.register}{held}")


def _files(image: BoundImage) -> Text:
    return plain(f", {', '.join(image.files)}" if image.files else "")


def _decryption_table(key: str, rows: Mapping[str, Mapping[Attests, Answer]]) -> Table:
    table = Table(
        title=plain(f"Who can decrypt with {key}"), title_justify="left", box=box.SIMPLE_HEAD
    )
    table.add_column("who", overflow="fold", ratio=1)
    for attests in Attests:
        table.add_column(HEADINGS[attests].replace(" ", "\n"))  # the names need the width
    for name, cells in rows.items():
        table.add_row(plain(name), *(_verdict(cells[attests]) for attests in Attests))
    return table


def _print_reasons(rows: Mapping[str, Mapping[Attests, Answer]], out: Console) -> None:
    """Print each reason once, the dangerous ones first, with the cells that it decides."""
    for (verdict, reason), found in reasons(rows).items():
        out.print(Text.assemble((verdict.value, STYLES[verdict]), ": ", plain(reason)))
        for name, attested in found.items():
            out.print(plain(f"  {name}: {_attested(attested)}"))


def _attested(found: Sequence[Attests]) -> str:
    left = [HEADINGS[each] for each in Attests if each not in found]
    if not left:
        return "always"
    return f"all but {left[0]}" if len(left) == 1 else ", ".join(HEADINGS[each] for each in found)


def _verdict(answer: Answer) -> Text:
    verdict = answer.verdict
    return Text(verdict.value, style="" if intended(answer) else STYLES[verdict])


def _print_counterexamples(explanation: Explanation, out: Console) -> None:
    for answer in counterexamples(explanation):
        out.print()
        out.print(plain(f"For example: {introduction(answer)}", "italic"))
        for name, value in described(row(answer).counterexample or {}):
            out.print(plain(f"  {name}: {value}"), soft_wrap=True)


def introduction(answer: Answer) -> str:
    """Return the sentence above a counterexample."""
    attests = f" with {answer.attests.value}" if answer.attests is not Attests.NOTHING else ""
    through = statement(answer.decision)
    given = f", {answer.given}" if answer.given else ""
    by = f", by {through}" if through else ""
    return f"{answer.caller.name} calls {answer.action}{attests}{given}{by}"


def described(example: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return a counterexample's parts, each with its name."""
    found = [
        (PLACES[name], _value(value))
        if name in PLACES
        else ("parameter", f"{name} = {_value(value)}")
        for name, value in example["parameters"].items()
    ]
    found += [
        ("principal", example["principal"]),
        ("action", f"{example['action']} on {example['key']}"),
    ]
    found += [
        ("grant", f"{', '.join(grant['operations'])} for {grant['grantee']}")
        for grant in example["grants"]
    ]
    attested = example["attestation"]
    if attested is None:
        found.append(("attestation", "none"))
    else:
        found += [("attestation", f"{name} = {digits}") for name, digits in attested.items()]
    return found + [("context", _context(*each)) for each in example["context"].items()]


def _value(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _context(name: str, value: object) -> str:
    return f"no {name}" if value is None else f"{name} = {_value(value)}"


def _control_table(answers: Sequence[Answer]) -> Table:
    table = Table(title="Who can change that", title_justify="left", box=box.SIMPLE_HEAD)
    found = list(gathered(answers))
    longest = max((len(word) for _, actions in found for word in actions.split()), default=0)
    for heading in ("who", "by", "verdict", "through"):
        table.add_column(heading, overflow="fold", min_width=longest if heading == "by" else None)
    for answer, actions in found:
        who = f"{answer.caller.name}, {answer.given}" if answer.given else answer.caller.name
        through = statement(answer.decision) or NOTHING
        table.add_row(plain(who), plain(actions), _verdict(answer), plain(through))
    if not answers:
        table.add_row("nobody", "", "", "")
    return table
