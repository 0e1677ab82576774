"""Messages quoted in the pages exist in the programs, and every JSON field is documented."""

from __future__ import annotations

import ast
import json
import re
from typing import TYPE_CHECKING

import pytest
from cryptography.fernet import Fernet

from tests.support import verb as verbs
from tests.support.image_files import Image
from tests.support.paths import PROJECT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TEMPLATE = "templates/Deploy-ApplicationEncryptor-Cfn.yaml"
KEY = "arn:aws:kms:eu-west-1:444455556666:key/1234abcd-12ab-34cd-56ef-1234567890ab"
EVENT = {
    "eventSource": "kms.amazonaws.com",
    "eventTime": "2026-11-28T12:00:00Z",
    "userIdentity": {"accountId": "111122223333"},
    "resources": [{"ARN": KEY}],
}
EVENTS = [
    EVENT | {"eventID": "1", "eventName": "Decrypt"},
    EVENT | {"eventID": "2", "eventName": "ScheduleKeyDeletion"},
]
INPUT = {
    "explain": b"",
    "measure": Image().written(),
    "inspect": (4).to_bytes(4) + b"blob" + Fernet(Fernet.generate_key()).encrypt(b"zip"),
    "audit": json.dumps({"Records": EVENTS}).encode(),
}

ROOMS = ("generator", "encryption", "enclave", "scripts")


def messages() -> list[str]:
    """Return every string in the programs, with a line break for each interpolated value."""
    found = []
    for path in (path for room in ROOMS for path in (PROJECT / room).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                parts = (
                    each.value if isinstance(each, ast.Constant) else "\n" for each in node.values
                )
                found.append("".join(map(str, parts)))
    return found


def tables(page: Path, heading: str) -> Iterator[list[str]]:
    """Yield the first cell's code in each row of the tables of *page* with that *heading*."""
    table = rf"^\| {heading} \|.*\n\|[-|]+\n((?:\|.*\n)+)"
    for rows in re.findall(table, page.read_text(), re.MULTILINE):
        for row in rows.splitlines():
            yield re.findall(r"`([^`]+)`", row.split(" | ")[0])


@pytest.mark.parametrize(("page", "least"), [("troubleshooting.md", 70), ("enclave.md", 25)])
def test_quoted_messages_exist_in_the_programs(page: str, least: int) -> None:
    known = messages()
    quoted = [each for cells in tables(PROJECT / "docs" / page, "message") for each in cells]
    assert len(quoted) >= least
    for message in quoted:
        pattern = ".*".join(map(re.escape, message.split("…")))
        assert any(re.search(pattern, text, re.DOTALL) for text in known), message


def json_fields(verb: str) -> set[str]:
    """Return the fields that docs/commands.md documents for a verb's JSON, nested ones too."""
    text = (PROJECT / "docs/commands.md").read_text()
    section = text.partition(f"\n### {verb}\n")[2].partition("\n### ")[0].partition("\n## ")[0]
    tables = section.partition("\n| JSON field |")[2]
    return set(re.findall(r"`([\w]+)`", tables))


@pytest.mark.parametrize(
    ("verb", "arguments"),
    [
        ("explain", [TEMPLATE]),
        ("explain", ["--diff", TEMPLATE, TEMPLATE]),
        ("measure", ["-"]),
        ("inspect", ["-"]),
        ("audit", ["--key", KEY, "--from", "-"]),
    ],
)
def test_json_fields_are_documented(verb: str, arguments: list[str]) -> None:
    run = verbs.run(verb, *arguments, "--format", "json", answer=INPUT[verb])
    found = json.loads(run.stdout)
    assert set(found) <= json_fields(verb), run.stderr
    for rows in found.values():
        for row in rows if isinstance(rows, list) else []:
            assert not isinstance(row, dict) or set(row) <= json_fields(verb)
