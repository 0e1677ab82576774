"""audit: what CloudTrail's events say about a key, from files of a trail.

The events have the format of AWS's own examples: the KMS developer guide's pages ct-decrypt,
ct-nitro-enclave, ct-nitro-tpm, ct-reencrypt, ct-put-key-policy, ct-creategrant, ct-updatealias.
"""

from __future__ import annotations

import base64
import gzip
import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.trail_events import (
    ALIAS,
    ARN,
    BOUND,
    DENIED,
    HOST,
    HOSTILE_RECIPIENT,
    ID,
    OTHER,
    OWNER,
    UNBOUND,
    ZEROS,
    attested,
    event,
    put_policy,
    refusing,
)
from tests.support.verb import assert_one_line, run

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path


def audit(
    tmp_path: Path, events: list[dict[str, Any]], *options: str
) -> subprocess.CompletedProcess[str]:
    """Audit the key from a trail's file."""
    file = tmp_path / "trail.json.gz"
    file.write_bytes(gzip.compress(json.dumps({"Records": events}).encode()))
    return run("audit", "--key", ARN, "--from", file, *options)


@pytest.mark.parametrize(
    ("events", "finding", "status"),
    [
        pytest.param([put_policy(0, BOUND), attested(BOUND, 1)], "bound", 0, id="bound"),
        pytest.param(
            [put_policy(0, BOUND), attested(BOUND, 1, hexadecimal=True)],
            *("bound", 0),
            id="digits-as-AWS-wrote-them-once",
        ),
        pytest.param(
            [put_policy(0, BOUND.upper()), attested(BOUND, 1)],
            "bound",
            0,
            id="letters-do-not-matter",
        ),
        pytest.param(
            [put_policy(0, BOUND), attested(UNBOUND, 1)], "unbound", 1, id="another-image"
        ),
        pytest.param([put_policy(0, BOUND), attested(ZEROS, 1)], "debug", 1, id="debug-mode"),
        pytest.param([put_policy(0, ZEROS), attested(ZEROS, 1)], "debug", 1, id="debug-mode-bound"),
        pytest.param([put_policy(0, BOUND), event("Decrypt", 1)], "unattested", 1, id="unattested"),
        pytest.param(
            [put_policy(0, BOUND), event("Decrypt", 1, additionalEventData={"recipient": "x"})],
            *("unattested", 1),
            id="no-document-noted",
        ),
        pytest.param(
            [put_policy(0, BOUND), event("Decrypt", 1, **DENIED)], "denied", 0, id="denied"
        ),
        pytest.param(
            [put_policy(0, BOUND), event("Decrypt", 1, errorCode="DryRunOperationException")],
            *("denied", 0),
            id="a-dry-run-releases-nothing",
        ),
        *(
            pytest.param([refusing(BOUND, *also), attested(BOUND, 1)], "unbound", 1, id=name)
            for name, also in {"refused": (), "bound-and-refused": (BOUND,)}.items()
        ),
        pytest.param([attested(BOUND, 1)], "attested", 1, id="bound-or-not-is-unknown"),
        pytest.param(
            [attested(BOUND, 1), put_policy(2, BOUND)], "attested", 1, id="bound-only-later"
        ),
        pytest.param(
            [put_policy(0, BOUND), put_policy(1, UNBOUND), attested(BOUND, 2)],
            *("unbound", 1),
            id="bound-no-longer",
        ),
        pytest.param(
            [put_policy(0, BOUND), put_policy(1, UNBOUND, **DENIED), attested(BOUND, 2)],
            *("bound", 0),
            id="a-refused-policy-changes-nothing",
        ),
        pytest.param(
            [
                event(
                    "Decrypt",
                    additionalEventData={
                        "recipient": {
                            "attestationDocumentModuleId": "i-1-tpm0000000000000000",
                            "attestationDocumentNitroTPMPCR4": base64.b64encode(b"4" * 48).decode(),
                        }
                    },
                )
            ],
            *("attested", 1),
            id="NitroTPM",
        ),
        pytest.param(
            [
                event(
                    "ReEncrypt",
                    requestParameters={"destinationKeyId": OTHER},
                    resources=[{"ARN": ARN}, {"ARN": OTHER}],
                )
            ],
            *("unattested", 1),
            id="ReEncrypt-from-the-key",
        ),
        *(
            pytest.param(
                [
                    event(
                        "ReEncrypt",
                        requestParameters={"sourceKeyId": source, "destinationKeyId": destination},
                        resources=[{"ARN": each} for each in keys],
                    )
                ],
                *("unattested", 1),
                id=f"ReEncrypt-from-an-alias-{number}",
            )
            for number, (source, destination, keys) in enumerate(
                [
                    (ALIAS, OTHER, [ARN, OTHER]),
                    (ALIAS, OTHER, [OTHER, ARN]),
                    (f"{ARN.rpartition(':')[0]}:{ALIAS}", ALIAS, [ARN, OTHER]),
                    (ALIAS, ARN, [ARN]),
                    (ALIAS, OTHER, []),
                ]
            )
        ),
        pytest.param(
            [event("Decrypt", requestParameters={"keyId": ALIAS}, resources=[])],
            *("unattested", 1),
            id="alias-of-any-key",
        ),
        pytest.param(
            [event("DeriveSharedSecret")], "unattested", 1, id="a-shared-secret-is-plaintext"
        ),
        pytest.param(
            [event("Decrypt", additionalEventData={"recipient": HOSTILE_RECIPIENT})],
            *("attested", 1),
            id="digits-that-are-not-ASCII",
        ),
    ],
)
def test_each_decryption_has_a_finding(
    events: list[dict[str, Any]], finding: str, status: int, tmp_path: Path
) -> None:
    result = audit(tmp_path, events, "--format", "json")
    assert (result.returncode, result.stderr) == (status, "")
    (decryption,) = json.loads(result.stdout)["decryptions"]
    assert decryption["finding"] == finding
    assert decryption["who"] == f"account {HOST} (AROAEXAMPLE:i-123456789abcde123)"


@pytest.mark.parametrize(
    "events",
    [
        pytest.param([event("Decrypt", 0, OTHER)], id="another-key"),
        pytest.param([event("Decrypt", eventSource="s3.amazonaws.com")], id="another-service"),
        pytest.param([event("GenerateDataKey")], id="encryption"),
        pytest.param([event("DescribeKey")], id="a-look"),
        pytest.param(
            [
                event(
                    "ReEncrypt",
                    requestParameters={"sourceKeyId": OTHER, "destinationKeyId": ARN},
                    resources=[{"ARN": OTHER}, {"ARN": ARN}],
                )
            ],
            id="ReEncrypt-to-the-key",
        ),
        pytest.param(
            [
                event(
                    "ReEncrypt",
                    requestParameters={"sourceKeyId": ALIAS, "destinationKeyId": ARN},
                    resources=[{"ARN": OTHER}, {"ARN": ARN}],
                )
            ],
            id="ReEncrypt-from-an-alias-of-another-key",
        ),
        pytest.param(
            [
                event(
                    "Decrypt",
                    requestParameters={
                        "keyId": f"{ARN.rpartition(':')[0].replace(OWNER, HOST)}:{ALIAS}"
                    },
                    resources=[],
                )
            ],
            id="an-alias-in-another-account",
        ),
    ],
)
def test_events_that_decrypt_nothing_are_omitted(
    events: list[dict[str, Any]], tmp_path: Path
) -> None:
    result = audit(tmp_path, events, "--format", "json")
    found = json.loads(result.stdout)
    assert (result.returncode, found["decryptions"], found["changes"]) == (0, [], [])
    assert found["verdict"] == "Nobody decrypted."


def test_bound_images_can_be_given_as_an_option(tmp_path: Path) -> None:
    events = [attested(BOUND), attested(UNBOUND, 1)]
    result = audit(tmp_path, events, "--images", BOUND, "--format", "json")
    assert [each["bound"] for each in json.loads(result.stdout)["decryptions"]] == [True, False]
    assert result.returncode == 1


def test_every_change_is_reported(tmp_path: Path) -> None:
    events = [
        put_policy(0, BOUND),
        event("PutKeyPolicy", 1, **DENIED),
        event(
            "CreateGrant",
            2,
            requestParameters={"keyId": ARN, "operations": ["Decrypt"], "granteePrincipal": "Eve"},
        ),
        event(
            "UpdateAlias",
            3,
            requestParameters={"aliasName": "alias/my_alias", "targetKeyId": ID},
            resources=[{"ARN": f"arn:aws:kms:us-west-2:{OWNER}:alias/my_alias"}],
        ),
        event("ScheduleKeyDeletion", 4, requestParameters={"keyId": ID, "pendingWindowInDays": 7}),
        event("RetireGrant", 5, requestParameters={"keyId": ARN, "grantId": "abcde"}),
    ]
    result = audit(tmp_path, events, "--format", "json")
    found = json.loads(result.stdout)["changes"]
    assert [(each["action"], each["detail"]) for each in found] == [
        ("PutKeyPolicy", f"binds {BOUND}"),
        ("PutKeyPolicy", ""),
        ("CreateGrant", "for Eve: Decrypt"),
        ("UpdateAlias", "alias/my_alias"),
        ("ScheduleKeyDeletion", "7"),
        ("RetireGrant", "abcde"),
    ]
    assert found[1]["error"] == "AccessDenied"
    assert result.returncode == 0


MIXED = [put_policy(0, BOUND), attested(BOUND, 1), event("Decrypt", 2), attested(ZEROS, 3)]


def test_text_output_begins_with_the_verdict(tmp_path: Path) -> None:
    result = audit(tmp_path, MIXED)
    lines = result.stdout.splitlines()
    assert lines[0] == ARN
    assert lines[1] == "2 of 3 decryptions were not attested by a bound image."
    assert lines[2].startswith("from the first event to ")
    for words in ("NOT ATTESTED", "DEBUG MODE", "attested, image bound", "PutKeyPolicy"):
        assert words in result.stdout
    assert f"PCR0 {BOUND}\n" in result.stdout
    assert "\x1b" not in result.stdout


def test_html_output_has_the_same_findings_and_is_escaped(tmp_path: Path) -> None:
    hostile = event("Decrypt", 4, userIdentity={"arn": "<script>alert(1)</script>\x1b[2J"})
    page = tmp_path / "audit.html"
    result = audit(tmp_path, [*MIXED, hostile], "--format", "html", "-o", str(page))
    assert (result.returncode, result.stdout, result.stderr) == (1, "", "")
    text = page.read_text()
    assert "3 of 4 decryptions were not attested by a bound image." in text
    assert text.count('<td class="bad">') == 3
    assert "<script" not in text
    assert "\x1b" not in text


def test_control_characters_in_names_are_escaped(tmp_path: Path) -> None:
    hostile = event("Decrypt", userIdentity={"arn": "[red]\x1b[2J\u202e"})
    result = audit(tmp_path, [hostile])
    assert "[red]\\x1b[2J\\u202e" in result.stdout


@pytest.mark.parametrize(
    "content",
    [
        pytest.param({"Records": MIXED}, id="a-trail's"),
        pytest.param(
            {"Events": [{"CloudTrailEvent": json.dumps(each)} for each in MIXED]},
            id="lookup-events",
        ),
        pytest.param(MIXED, id="a-list"),
        pytest.param([{"detail-type": "x", "detail": each} for each in MIXED], id="EventBridge"),
    ],
)
def test_files_of_every_form_are_read_and_duplicates_dropped(
    content: object, tmp_path: Path
) -> None:
    folder = tmp_path / "AWSLogs" / "CloudTrail"
    folder.mkdir(parents=True)
    (folder / "a.json").write_text(json.dumps(content))
    (folder / "again.json.gz").write_bytes(gzip.compress(json.dumps(content).encode()))
    digest = tmp_path / "AWSLogs" / "CloudTrail-Digest"
    digest.mkdir()
    (digest / "digest.json").write_text('{"digestPublicKeyFingerprint": "…"}')
    for source, text in ((str(tmp_path), ""), ("-", json.dumps(content))):
        command = ("audit", "--key", ARN, "--from", source, "--format", "json")
        result = run(*command, answer=text)
        # An event in two files counts once.
        assert len(json.loads(result.stdout)["decryptions"]) == 3


def test_events_without_an_id_are_not_dropped_as_duplicates(tmp_path: Path) -> None:
    events = [event("Decrypt", minute) for minute in (1, 2)]
    for each in events:
        del each["eventID"]
    assert "2 of 2 decryptions were not attested" in audit(tmp_path, events).stdout


def test_characters_that_the_terminal_cannot_encode_are_escaped(tmp_path: Path) -> None:
    file = tmp_path / "trail.json"
    file.write_text(json.dumps({"Records": MIXED}))
    environment = {"PATH": os.environ["PATH"], "PYTHONIOENCODING": "ascii"}
    result = run("audit", "--key", ARN, "--from", file, environment=environment)
    assert (result.returncode, result.stderr) == (1, "")
    assert f"{BOUND[:16]}\\u2026" in result.stdout


def test_days_limits_events_to_the_last_days(tmp_path: Path) -> None:
    old = event("Decrypt", -3 * 24 * 60)
    both = [old, event("Decrypt")]
    assert "2 of 2" in audit(tmp_path, both).stdout
    assert "1 of 1" in audit(tmp_path, both, "--days", "2").stdout


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param(b"{", "does not contain CloudTrail events", id="half"),
        pytest.param(b"[1]", "does not contain CloudTrail events", id="numbers"),
        pytest.param(b'{"a": 1}', "does not contain CloudTrail events", id="something-else"),
        pytest.param(
            b'[{"eventSource": "kms.amazonaws.com", "eventName": {}}]',
            "does not contain CloudTrail events",
            id="name-is-not-text",
        ),
        pytest.param(
            b'{"Events": [{}]}', "does not contain CloudTrail events", id="events-without-an-event"
        ),
        pytest.param(b"\x1f\x8b\x08half", "is damaged", id="half-compressed"),
        pytest.param(b"[" * 100_000, "does not contain CloudTrail events", id="deep"),
    ],
)
def test_file_without_cloudtrail_events_is_one_line_error(
    content: bytes, reason: str, tmp_path: Path
) -> None:
    file = tmp_path / "file.json"
    file.write_bytes(content)
    assert_one_line(run("audit", "--key", ARN, "--from", file), str(file), reason)


def test_gzip_bomb_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "bomb.json.gz"
    file.write_bytes(gzip.compress(bytes(513 << 20), 1))
    assert_one_line(run("audit", "--key", ARN, "--from", file), "more than 512 MiB")


@pytest.mark.parametrize(
    ("arguments", "reason", "status"),
    [
        pytest.param((), "required: --key", 2, id="no-key"),
        pytest.param(("--key", "alias/x"), "alias/x: is not the ARN of a KMS key", 1, id="alias"),
        pytest.param(("--key", ARN, "--days", "0"), "from 1 to 36500", 2, id="no-days"),
        pytest.param(("--key", ARN, "--days", "91"), "add --from", 1, id="more-than-history-has"),
        pytest.param(("--key", ARN, "--from", "absent"), "absent: No such file", 1, id="no-file"),
        pytest.param(("--key", ARN, "--images", "none"), "none is neither", 1, id="not-an-image"),
    ],
)
def test_invalid_arguments_are_one_line_error(
    arguments: tuple[str, ...], reason: str, status: int
) -> None:
    assert_one_line(run("audit", *arguments), reason, status=status)
