"""An audit as text, as JSON, and as an HTML page."""

from __future__ import annotations

import json
from html import escape
from typing import TYPE_CHECKING, Any

from generator import pages
from generator.audit.judgement import ALARMING, Finding
from generator.terminal import printable

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from rich.console import Console

    from generator.audit.judgement import Audit, Change, Decryption

SHORT = 16
"""Digits of a PCR0 that the table shows; the full value is below the table."""


def window(audit: Audit) -> str:
    """Return the period of the audit as text."""
    since = _time(audit.since) if audit.since else "the first event"
    return f"from {since} to {_time(audit.until)}"


def as_json(audit: Audit) -> str:
    """Return the audit as JSON."""
    found = {
        "key": audit.key,
        "since": audit.since.isoformat() if audit.since else None,
        "until": audit.until.isoformat(),
        "verdict": audit.verdict,
        "alarming": len(audit.alarming),
        "undetermined": len(audit.undetermined),
        "decryptions": [_decryption_facts(each) for each in audit.decryptions],
        "changes": [_change_facts(each) for each in audit.changes],
    }
    return json.dumps(found, indent=2)


def _decryption_facts(each: Decryption) -> dict[str, Any]:
    return {
        "time": each.time.isoformat(),
        "action": each.action,
        "who": each.who,
        "finding": each.finding.name.lower(),
        "attested": bool(each.registers or each.module),
        "bound": {Finding.BOUND: True, Finding.UNBOUND: False}.get(each.finding),
        "debug": each.finding is Finding.DEBUG,
        "image": each.image,
        "registers": dict(each.registers),
        "module": each.module,
        "source": each.source,
        "error": each.error,
        "event": each.event,
    }


def _change_facts(each: Change) -> dict[str, Any]:
    return {
        "time": each.time.isoformat(),
        "action": each.action,
        "who": each.who,
        "detail": each.detail,
        "error": each.error,
        "event": each.event,
    }


def print_text(audit: Audit, console: Console) -> None:
    """Print the audit for a person at a terminal."""
    from rich.table import Table
    from rich.text import Text

    def plain(text: str, style: str = "") -> Text:
        return Text(printable(text), style=style)

    styles = {"bad": "red", "unknown": "yellow", "good": "green"}
    console.print(plain(audit.key, "bold"))
    console.print(plain(audit.verdict, f"bold {styles[tone(audit)]}"))
    console.print(plain(window(audit)))
    if audit.decryptions:
        table = Table(title="Every decryption", title_justify="left")
        for heading in ("when", "who", "image", "finding"):
            table.add_column(heading, overflow="fold")
        for each in audit.decryptions:
            image = f"{each.image[:SHORT]}…" if each.image else "–"
            style = "red" if each.finding in ALARMING else ""
            cells = (_time(each.time), each.who, image, _finding(each))
            table.add_row(*map(plain, cells), style=style)
        console.print()
        console.print(table)
        for image in dict.fromkeys(each.image for each in audit.decryptions if each.image):
            console.print(plain(f"PCR0 {image}"), soft_wrap=True)
    if audit.changes:
        table = Table(title="Every change", title_justify="left")
        for heading in ("when", "who", "action", "detail"):
            table.add_column(heading, overflow="fold")
        for change in audit.changes:
            cells = (_time(change.time), change.who, _action(change), change.detail)
            table.add_row(*map(plain, cells))
        console.print()
        console.print(table)


def page(audit: Audit) -> str:
    """Return the audit as one self-contained HTML page."""
    return pages.page(
        "audit",
        "What was decrypted",
        subject=escape(audit.key),
        tone=tone(audit),
        verdict=escape(audit.verdict),
        window=escape(window(audit)),
        decryptions=_table(
            ("when", "who", "from", "image", "finding"),
            (
                (
                    _time(each.time),
                    each.who,
                    each.source,
                    each.image or each.module or "–",
                    _finding(each),
                )
                for each in audit.decryptions
            ),
        ),
        changes=_table(
            ("when", "who", "action", "detail"),
            ((_time(each.time), each.who, _action(each), each.detail) for each in audit.changes),
        ),
    )


def _table(headings: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """Return a table; a row's last cell is red if it begins with an alarming finding."""
    alarming = tuple(each.value for each in ALARMING)
    body = ""
    for *cells, last in rows:
        text = "".join(f"<td>{escape(printable(cell))}</td>" for cell in cells)
        mark = ' class="bad"' if last.startswith(alarming) else ""
        body += f"<tr>{text}<td{mark}>{escape(printable(last))}</td></tr>\n"
    if not body:
        return "<p>None.</p>"
    head = "".join(f"<th scope=col>{heading}</th>" for heading in headings)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table>"
    return f'<div class="scroll">{table}</div>'


def tone(audit: Audit) -> str:
    """Return good, unknown or bad."""
    if audit.alarming:
        return "bad"
    return "unknown" if audit.undetermined else "good"


def _finding(each: Decryption) -> str:
    error = f": {each.error}" if each.error else ""
    action = "" if each.action == "Decrypt" else f" ({each.action})"
    return f"{each.finding.value}{error}{action}"


def _action(change: Change) -> str:
    return f"{change.action} (failed: {change.error})" if change.error else change.action


def _time(time: datetime) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%SZ")
