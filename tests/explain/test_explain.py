"""Who can decrypt: the same answer as text, JSON and a page, for templates and policies."""

import copy
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from playwright.sync_api import Browser, sync_playwright

from generator.reading.documents import read
from tests.support import verb
from tests.support.machine import program
from tests.support.paths import ENCRYPTOR_TEMPLATE, PROJECT

OURS = ENCRYPTOR_TEMPLATE
CLASSIC = PROJECT / "tests/rules/templates/classic.yaml"
OWNER, HOST = "111111111111", "222222222222"
PCR0 = "0123456789abcdef" * 6
CLOSED = "Nobody decrypts without attesting a bound image."
OPEN = "Somebody decrypts without attesting a bound image."

POLICY: dict[str, Any] = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Sid": "Account",
            "Effect": "Allow",
            "Principal": {"AWS": f"arn:aws:iam::{OWNER}:root"},
            "Action": "kms:*",
            "Resource": "*",
        },
        {
            "Sid": "Host",
            "Effect": "Allow",
            "Principal": {"AWS": f"arn:aws:iam::{HOST}:root"},
            "Action": "kms:Decrypt",
            "Resource": "*",
        },
        {
            "Sid": "Attested",
            "Effect": "Deny",
            "Principal": "*",
            "Action": ["kms:Decrypt", "kms:ReEncryptFrom"],
            "Resource": "*",
            "Condition": {
                "StringNotEqualsIgnoreCase": {"kms:RecipientAttestation:ImageSha384": PCR0}
            },
        },
    ],
}


def explain(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return verb.run("explain", *arguments)


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "policy.json"
    path.write_text(json.dumps(POLICY))
    return path


@pytest.fixture
def weak_policy(tmp_path: Path) -> Path:
    """Deny only the host, like the classic sample."""
    weak = copy.deepcopy(POLICY)
    weak["Statement"][2]["Principal"] = {"AWS": f"arn:aws:iam::{HOST}:root"}
    path = tmp_path / "weak.json"
    path.write_text(json.dumps(weak))
    return path


def test_our_template_is_closed_by_a_named_statement() -> None:
    run = explain()
    assert (run.returncode, run.stderr) == (0, "")
    assert CLOSED in run.stdout
    assert "statement 3 (DenyDecryptUnlessAttested) of the key policy denies it" in run.stdout
    assert "kms:PutKeyPolicy" in run.stdout


def test_json_has_every_question_with_its_verdict_and_statement() -> None:
    found = json.loads(explain("--format", "json").stdout)
    assert found["verdict"] == "closed"
    keys = {"principal", "attestation", "action", "verdict", "statement"}
    assert all(keys <= row.keys() for row in found["decryptions"] + found["controls"])
    unattested = [row for row in found["decryptions"] if row["attestation"] != "a bound image"]
    assert {row["verdict"] for row in unattested} == {"denied"}
    assert {row["attestation"] for row in found["decryptions"]} == {
        "no attestation",
        "a debug enclave (zeros)",
        "an image that is not bound",
        "a bound image",
    }
    bound = {
        row["principal"]
        for row in found["decryptions"]
        if row["attestation"] == "a bound image" and row["verdict"] == "allowed"
    }
    assert any("${ExternalBucketAWSAccountNumber}" in principal for principal in bound)


def test_classic_template_is_open_with_status_1() -> None:
    run = explain(CLASSIC)
    assert run.returncode == 1
    assert OPEN in run.stdout


@pytest.mark.parametrize("wrapped", [False, True], ids=["bare", "as-get-key-policy-prints-it"])
def test_a_policy_document_is_explained(policy: Path, wrapped: bool) -> None:  # noqa: FBT001 - a parameter of the test
    if wrapped:
        policy.write_text(json.dumps({"Policy": policy.read_text(), "PolicyName": "default"}))
    run = explain(policy)
    assert (run.returncode, run.stderr) == (0, "")
    assert CLOSED in run.stdout
    assert HOST in run.stdout


def test_policy_that_denies_only_the_host_is_open_to_the_owner(weak_policy: Path) -> None:
    found = json.loads(explain(weak_policy, "--format", "json").stdout)
    assert found["verdict"] == "open"
    opened = {
        row["principal"]
        for row in found["decryptions"]
        if row["verdict"] == "allowed" and row["attestation"] == "no attestation"
    }
    assert "an administrator of the key's account" in opened
    assert "anyone to whom the key's account gives a grant" in opened
    assert not any(HOST in principal for principal in opened)


def test_diff_shows_changes_of_access(policy: Path, weak_policy: Path) -> None:
    worse = explain("--diff", policy, weak_policy)
    assert worse.returncode == 1
    assert "gains" in worse.stdout
    assert "loses" not in worse.stdout
    assert "an administrator of the key's account" in worse.stdout
    better = explain("--diff", weak_policy, policy)
    assert "loses" in better.stdout
    assert "gains" not in better.stdout


def test_diff_without_difference_is_status_0(policy: Path) -> None:
    run = explain("--diff", policy, policy)
    assert (run.returncode, run.stderr) == (0, "")
    assert "Nobody gains or loses access" in run.stdout


def test_renamed_and_reordered_statements_are_not_a_difference(
    policy: Path, tmp_path: Path
) -> None:
    other = copy.deepcopy(POLICY)
    other["Statement"].reverse()
    for statement in other["Statement"]:
        statement["Sid"] = statement["Sid"][::-1]
    path = tmp_path / "other.json"
    path.write_text(json.dumps(other))
    assert explain("--diff", policy, path).returncode == 0


@pytest.mark.parametrize(
    ("text", "why"),
    [
        pytest.param("", "has neither Resources nor a Statement", id="empty"),
        pytest.param("a: [", "is neither YAML nor JSON", id="broken-yaml"),
        pytest.param('{"a": ', "is neither YAML nor JSON", id="broken-json"),
        pytest.param("[1, 2]", "has neither Resources nor a Statement", id="list"),
        pytest.param('{"Policy": "x"}', "has neither Resources", id="policy-that-is-no-policy"),
        pytest.param('{"Resources": {}}', "declares no KMS key", id="no-key"),
    ],
)
def test_invalid_document_is_one_line_error(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "document"
    path.write_text(text)
    run = explain(path)
    assert (run.returncode, run.stdout, run.stderr.count("\n")) == (1, "", 1)
    assert run.stderr.startswith(f"error: {path}: {why}")


def test_missing_file_is_one_line_error(tmp_path: Path) -> None:
    run = explain(tmp_path / "absent.yaml")
    assert run.returncode == 1
    assert run.stderr == (
        f"error: {tmp_path}/absent.yaml: No such file or directory: pass a template or a policy\n"
    )


def test_json_and_yaml_of_a_template_are_equivalent(tmp_path: Path) -> None:
    path = tmp_path / "ours.json"
    path.write_text(json.dumps(read(OURS)))
    assert explain("--diff", OURS, path).returncode == 0


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = program("chromium")
    options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, args=options)
        yield running
        running.close()


RUNNING_OUT = """[...document.querySelectorAll("svg g")].flatMap(group => {
    const box = group.querySelector("rect").getBBox();
    return [...group.querySelectorAll("text")].filter(text => {
        const { x, width } = text.getBBox();
        return x + width > box.x + box.width;
    }).map(text => text.textContent);
})"""
"""Names in the diagram that are wider than their boxes."""
LEADING_NOWHERE = """[...document.querySelectorAll("td a")].map(
    link => link.getAttribute("href")
).filter(href => document.querySelectorAll(`[id='${href.slice(1)}']`).length !== 1)"""


@pytest.mark.parametrize(
    "device",
    [
        pytest.param((400, "light"), id="telephone-by-day"),
        pytest.param((1200, "dark"), id="desk-at-night"),
    ],
)
@pytest.mark.parametrize(("subject", "verdict"), [(OURS, CLOSED), (CLASSIC, OPEN)])
def test_page_is_self_contained_in_a_browser(
    browser: Browser,
    tmp_path: Path,
    subject: Path,
    verdict: str,
    device: tuple[int, Literal["light", "dark"]],
) -> None:
    width, scheme = device
    path = tmp_path / "page.html"
    path.write_text(explain(subject, "--format", "html").stdout)
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [path.as_uri()]
    assert page.locator(".verdict").inner_text() == verdict
    assert page.locator("h2").all_inner_texts()[-2:] == ["Who can change that", "Who may do what"]
    assert bool(page.locator("svg .bad").count()) is (verdict == OPEN)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(RUNNING_OUT) == []
    for outside in page.locator("svg .outside rect").all():
        assert outside.evaluate("box => getComputedStyle(box).stroke") != "none"
    assert page.locator("td a").count()
    assert page.evaluate(LEADING_NOWHERE) == []
    page.close()


def test_diagram_says_perhaps_if_the_proof_is_inconclusive(tmp_path: Path) -> None:
    image = {"kms:RecipientAttestation:ImageSha384": {"Fn::ImportValue": "of-another-stack"}}
    policy = {
        "Statement": [
            {
                "Effect": "Allow",
                "Principal": {"AWS": {"Ref": "AWS::AccountId"}},
                "Action": "kms:*",
                "Resource": "*",
            },
            {
                "Effect": "Deny",
                "Principal": "*",
                "Action": "kms:*",
                "Resource": "*",
                "Condition": {"StringNotLike": image},
            },
        ]
    }
    key = {"Type": "AWS::KMS::Key", "Properties": {"KeyPolicy": policy}}
    path = tmp_path / "template.json"
    path.write_text(json.dumps({"Resources": {"Key": key}}))
    picture = explain(path, "--format", "html").stdout
    assert ">perhaps decrypts" in picture
    assert ">decrypts" not in picture
