"""`validate` on the command line: any input, and its output."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
import yaml

from generator.__main__ import main
from tests.support.linter import load_rules_once

if TYPE_CHECKING:
    from collections.abc import Callable

TEMPLATES = Path(__file__).with_name("templates")
GOOD, BAD = TEMPLATES / "E9004.good.yaml", TEMPLATES / "E9004.bad.yaml"
OWNER, HOST = "111122223333", "444455556666"


class Run(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str

    def rules(self) -> set[str]:
        """Return the rules that found something."""
        return {line.split()[0] for line in self.out.splitlines() if line[1:5].isdigit()}


@pytest.fixture
def validate(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Run]:
    """Run the command in this process: importing cfn-lint alone takes a second."""
    load_rules_once()

    def run(*arguments: str | Path, given: bytes = b"") -> Run:
        monkeypatch.setattr(
            sys, "argv", ["application-encryptor", "validate", *map(str, arguments)]
        )
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
        return Run(main(), *capsys.readouterr())

    return run


def statement(effect: str, account: str, action: object, **more: object) -> dict[str, object]:
    principal = "*" if account == "*" else {"AWS": f"arn:aws:iam::{account}:root"}
    return {"Effect": effect, "Principal": principal, "Action": action, "Resource": "*", **more}


NOTHING = {"Ref": "AWS::NoValue"}
UNATTESTED = {"StringNotEqualsIgnoreCase": {"kms:RecipientAttestation:ImageSha384": "1a" * 48}}
DENY = statement("Deny", "*", ["kms:Decrypt", "kms:ReEncryptFrom"], Condition=UNATTESTED)
ALLOW = [statement("Allow", OWNER, "kms:*"), statement("Allow", HOST, "kms:Decrypt")]
CLOSED = json.dumps({"Version": "2012-10-17", "Statement": [*ALLOW, DENY]}, indent=1)
OPEN = json.dumps({"Version": "2012-10-17", "Statement": ALLOW}, indent=1)


@pytest.mark.parametrize("wrapped", [False, True])
def test_bare_key_policy_is_checked_by_the_key_rules(
    validate: Callable[..., Run], tmp_path: Path, *, wrapped: bool
) -> None:
    path = tmp_path / "policy.json"
    for text, status in ((CLOSED, 0), (OPEN, 2)):
        path.write_text(json.dumps({"Policy": text, "PolicyName": "default"}) if wrapped else text)
        run = validate(path)
        assert run.status & 2 == status, run
        assert run.err == ("" if status else f"1 valid: {path}\n")
        assert all(rule[1:3] == "91" for rule in run.rules())
    assert "E9101" in run.rules()


def test_key_policy_with_a_key_twice_is_refused(
    validate: Callable[..., Run], tmp_path: Path
) -> None:
    path = tmp_path / "policy.json"
    for text in (
        CLOSED.replace('"Effect": "Deny"', '"Effect": "Allow", "Effect": "Deny"'),
        f"Statement: {json.dumps(ALLOW)}\nStatement: {json.dumps([*ALLOW, DENY])}\n",
    ):
        path.write_text(text)
        run = validate(path)
        assert (run.status, run.out) == (1, "")
        assert "twice in one mapping" in run.err


@pytest.mark.parametrize(
    "condition",
    [
        {"Fn::Equals": [{"Fn::FindInMap": ["M", {"Ref": "P"}, "v", {"DefaultValue": "x"}]}, "x"]},
        {"Fn::Equals": ["10", "OCTAL"]},
    ],
    ids=["values that cfn-lint chooses", "a number that cfn-lint reads"],
)
@pytest.mark.parametrize("piped", [False, True])
def test_keys_are_judged_as_the_file_has_them(
    validate: Callable[..., Run], tmp_path: Path, condition: object, *, piped: bool
) -> None:
    policy = {"Version": "2012-10-17", "Statement": [*ALLOW, {"Fn::If": ["C", NOTHING, DENY]}]}
    template = {
        "Transform": "AWS::LanguageExtensions",
        "Parameters": {"P": {"Type": "String", "Default": "a", "AllowedValues": ["a", "b"]}},
        "Mappings": {"M": {"a": {"v": "y"}}},
        "Conditions": {"C": condition},
        "Resources": {"Key": {"Type": "AWS::KMS::Key", "Properties": {"KeyPolicy": policy}}},
    }
    path = tmp_path / "template.yaml"
    path.write_text(json.dumps(template).replace('"OCTAL"', "010") + "\n# YAML\n")
    run = validate("-", given=path.read_bytes()) if piped else validate(path)
    assert {"W9101", "W9103"} & set(run.rules())


def test_number_in_a_key_policy_is_not_read_in_one_of_several_ways(
    validate: Callable[..., Run], tmp_path: Path
) -> None:
    path = tmp_path / "policy.yaml"
    conditions = [{"StringNotEquals": {"aws:x": "OCTAL"}}, {"StringEquals": {"aws:x": "8"}}]
    denials = [{**DENY, "Condition": condition} for condition in conditions]
    text = json.dumps({"Version": "2012-10-17", "Statement": [*ALLOW, *denials]})
    path.write_text(text.replace('"OCTAL"', "010") + "\n# YAML\n")
    assert "W9103" in validate(path).rules()


def test_finding_about_a_policy_has_its_line_number(
    validate: Callable[..., Run], tmp_path: Path
) -> None:
    path = tmp_path / "policy.json"
    path.write_text(OPEN)
    found = json.loads(validate(path, "--", "--format", "json").out)
    starts = [n for n, line in enumerate(OPEN.splitlines(), 1) if line == "  {"]
    assert found
    for match in found:
        assert match["Filename"] == str(path)
        *_, member, index = match["Location"]["Path"]
        if member == "Statement":
            assert match["Location"]["Start"]["LineNumber"] == starts[index]


def plan(policy: str) -> bytes:
    values = {"policy": policy, "key_usage": "ENCRYPT_DECRYPT"}
    key = {"address": "aws_kms_key.this", "type": "aws_kms_key", "values": values}
    root = {"root_module": {"resources": [key]}}
    return json.dumps({"terraform_version": "1.9.8", "planned_values": root}).encode()


def test_terraform_plan_is_checked_by_the_key_rules(validate: Callable[..., Run]) -> None:
    weak = CLOSED.replace('"Principal": "*"', f'"Principal": {{"AWS": "{HOST}"}}')
    assert "W9101" in validate("-", given=plan(weak)).rules()
    left_out = validate("-", given=plan(OPEN))  # not a key for an enclave
    assert left_out.status == 0
    assert left_out.err == (
        "1 valid: standard input\nnote: standard input: no policy of aws_kms_key.this names an "
        "attestation, so the rules about keys were not applied: see application-encryptor explain\n"
    )


def test_owner_option_says_whose_key_a_policy_is_for(validate: Callable[..., Run]) -> None:
    locked = {"AWS": "arn:aws:iam::444455556666:root"}
    statement = {
        "Effect": "Allow",
        "Principal": locked,
        "Action": ["kms:Encrypt", "kms:DisableKey"],
    }
    policy = json.dumps({"Statement": [{**statement, "Resource": "*"}]}).encode()
    assert {"E9104", "E9105", "E9107"} <= validate("-", given=policy).rules()
    run = validate("--owner", "444455556666", "-", given=policy)
    assert run.rules() == {"E9107"}
    assert "--bypass-policy-lockout-safety-check" in run.out
    refused = validate("--owner", "444455556666", "-", given=GOOD.read_bytes())
    assert (refused.status, refused.out) == (1, "")
    assert refused.err == "error: standard input: is not a key policy: leave out --owner\n"


def test_template_is_read_from_standard_input(validate: Callable[..., Run]) -> None:
    run = validate("-", given=BAD.read_bytes())
    assert (run.rules(), run.status) == ({"E9004"}, 2)
    assert "standard input:" in run.out
    assert validate("-", given=GOOD.read_bytes()).err == "1 valid: standard input\n"


def test_file_names_are_not_expanded_as_patterns(
    validate: Callable[..., Run], tmp_path: Path
) -> None:
    (tmp_path / "a1.yaml").write_bytes(GOOD.read_bytes())
    (tmp_path / "a[1].yaml").write_bytes(BAD.read_bytes())
    (tmp_path / "*.yaml").write_bytes(GOOD.read_bytes())
    assert validate(tmp_path / "a[1].yaml").rules() == {"E9004"}
    assert validate(tmp_path / "*.yaml").err == f"1 valid: {tmp_path / '*.yaml'}\n"


@pytest.mark.parametrize(
    "options", [("--non-zero-exit-code", "none"), ("--non-zero-exit-code", "none", "-f", "quiet")]
)
def test_templates_with_findings_are_not_reported_as_valid(
    validate: Callable[..., Run], options: tuple[str, ...]
) -> None:
    run = validate(BAD, GOOD, "--", *options)
    assert run.status == 0
    assert "valid" not in run.err


def test_unchecked_templates_are_not_reported_as_valid(validate: Callable[..., Run]) -> None:
    for option in ("--list-rules", "--list-templates", "--version", "--help"):
        run = validate(GOOD, "--", option)
        assert run.status == 0
        assert "valid:" not in run.err, option


@pytest.mark.parametrize(
    ("arguments", "status", "reason"),
    [
        pytest.param((GOOD, "--", "--bogus"), 2, "--bogus", id="unknown-option"),
        pytest.param((GOOD, "--", "--format", "xml"), 2, "'xml'", id="unknown-format"),
        pytest.param((GOOD, "--", "--regions"), 2, "expected at least one", id="no-value"),
        pytest.param((GOOD, "--", "--regions", "mars"), 32, "['mars']", id="unknown-region"),
        pytest.param(("none.yaml",), 1, "No such file", id="no-file"),
        pytest.param((TEMPLATES,), 1, "Is a directory", id="a-directory"),
        pytest.param((GOOD, "none.yaml"), 1, "No such file", id="one-of-two"),
        pytest.param(("-",), 1, "is not UTF-8", id="not-text"),
    ],
)
def test_invalid_arguments_are_one_line_error(
    validate: Callable[..., Run], arguments: tuple[str, ...], status: int, reason: str
) -> None:
    run = validate(*arguments, given=b"\xff\xfe")
    assert (run.status, run.out, run.err.count("\n")) == (status, "", 1)
    assert run.err.startswith("error: ")
    assert reason in run.err


def test_template_that_does_not_parse_is_a_finding(
    validate: Callable[..., Run], tmp_path: Path
) -> None:
    path = tmp_path / "broken.yaml"
    for text in ("Resources:\n  A: [\n", "Resources: {}\nResources: {}\n", "{", '{"A": 1, "A": 2}'):
        path.write_text(text)
        run = validate(path)
        assert run.rules() == {"E0000"}, run


@pytest.mark.parametrize("last", [BAD, GOOD])
def test_file_that_crashes_cfn_lint_is_one_line_and_others_are_checked(
    validate: Callable[..., Run], tmp_path: Path, last: Path
) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(
        "Transform: AWS::LanguageExtensions\nParameters: x\n"
        "Resources:\n  B: {Type: AWS::S3::Bucket}\n"
    )
    for run in (validate(path, last), validate("-", last, given=path.read_bytes())):
        assert run.rules() == ({"E9004"} if last is BAD else set())
        assert run.status == 2
        assert re.fullmatch(
            r"error: (\S+a\.yaml|standard input): cfn-lint cannot read it \(AttributeError: .+\): "
            r"check that each section.+\n",
            run.err,
        )


HOSTILE_MESSAGES = """\
Parameters:
  EnclaveImageSha384: {Type: String}
Resources:
  Role:
    Type: AWS::IAM::Role
    Properties:
      AssumeRolePolicyDocument: {Statement: []}
      Policies:
        - PolicyName: x
          PolicyDocument:
            Statement: {Effect: Allow, Action: "s3:\\e[31m*", Resource: !ImportValue Bucket}
  Build:
    Type: AWS::CodeBuild::Project
    Properties:
      ServiceRole: !GetAtt Role.Arn
      Source: {Type: NO_SOURCE}
"""
"""A template whose build has a permission known only to AWS, and one with a control character."""


def test_messages_contain_no_control_or_replacement_characters(
    validate: Callable[..., Run],
) -> None:
    out = validate("-", given=HOSTILE_MESSAGES.encode()).out
    assert "s3:\\x1b[31m*" in out
    assert "\x1b" not in out
    assert "\N{REPLACEMENT CHARACTER}" not in out


def test_hook_checks_only_templates(validate: Callable[..., Run], tmp_path: Path) -> None:
    others = {
        "values.yaml": "replicas: 3\nResources: {limits: {cpu: 1}}\n",
        "many.yaml": "kind: Pod\n---\nkind: Service\n",
        "policy.json": OPEN,
        "email.json": '{"subject": "AWSTemplateFormatVersion"}',
        "list.yaml": "- a\n- b\n",
        "empty.yaml": "",
    }
    for name, text in others.items():
        (tmp_path / name).write_text(text)
    names = sorted(tmp_path.iterdir())
    assert validate("--templates-only", *names) == (0, "", "")
    broken = tmp_path / "broken.yaml"
    broken.write_text("AWSTemplateFormatVersion: '2010-09-09'\nResources: [\n")
    assert validate("--templates-only", *names, broken).rules() == {"E0000"}
    assert validate("--templates-only", *names, BAD).rules() == {"E9004"}


HOOK = yaml.safe_load(Path(".pre-commit-hooks.yaml").read_text())[0]


@pytest.mark.parametrize(
    ("name", "picked"),
    [
        ("template.yaml", True),
        ("stacks/web/Deploy-ApplicationEncryptor-Cfn.yaml", True),
        ("network.template.json", True),
        ("infra/cloudformation/network.yml", True),
        ("templates/bucket.yaml", True),
        ("stack.yaml", True),
        ("values.yaml", False),
        (".github/ISSUE_TEMPLATE/bug.yml", False),
        (".github/workflows/cloudformation.yml", False),
        ("cfn-lint-settings.yaml", False),
        ("src/template_engine.json", False),
        ("templates/index.html", False),
    ],
)
def test_hook_selects_templates_by_name(name: str, *, picked: bool) -> None:
    included = re.search(HOOK["files"], name) and name.endswith((".yaml", ".yml", ".json"))
    assert bool(included and not re.search(HOOK["exclude"], name)) is picked


def test_command_of_the_hook_exists(validate: Callable[..., Run]) -> None:
    program, verb, *options = HOOK["entry"].split()
    assert (program, verb) == ("application-encryptor", "validate")
    assert validate(*options, GOOD).status == 0


def test_sarif_has_rule_location_and_file(validate: Callable[..., Run], tmp_path: Path) -> None:
    path = tmp_path / "a [1].yaml"
    path.write_bytes(BAD.read_bytes())
    run = validate(path, "--", "--format", "sarif")
    (log,) = json.loads(run.out)["runs"]
    result = log["results"][0]
    assert result["ruleId"] == "E9004"
    assert [rule["id"] for rule in log["tool"]["driver"]["rules"]] == ["E9004"]
    (location,) = result["locations"]
    uri = location["physicalLocation"]["artifactLocation"]["uri"]
    assert uri == str(path).replace(" [1]", "%20%5B1%5D")
    assert location["physicalLocation"]["region"]["startLine"] > 1
    (logical,) = location["logicalLocations"]
    assert logical["fullyQualifiedName"] == "Resources/Build/Properties/Source/BuildSpec"
    assert run.status == 2


def test_sarif_has_the_counterexample_of_a_key_finding(
    validate: Callable[..., Run],
) -> None:
    run = validate("-", "--", "--format", "sarif", given=OPEN.encode())
    (log,) = json.loads(run.out)["runs"]
    found = [each for each in log["results"] if each["ruleId"] == "E9101"]
    assert found
    for result in found:
        example = result["properties"]["counterexample"]
        assert example["action"].startswith("kms:")
        assert HOST in example["principal"]
        assert example["attestation"] is None


def test_sarif_is_written_to_an_output_file(validate: Callable[..., Run], tmp_path: Path) -> None:
    output = tmp_path / "found.sarif"
    run = validate(BAD, "--", "--format", "sarif", "--output-file", output)
    assert (run.status, run.out) == (2, "")
    assert json.loads(output.read_text())["version"] == "2.1.0"


def test_configuration_that_also_appends_our_rules_is_harmless(
    validate: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".cfnlintrc").write_text(
        "append_rules: [generator.rules]\nignore_checks: [E9004]\n"
    )
    monkeypatch.chdir(tmp_path)
    assert validate(BAD).status == 0


@pytest.mark.parametrize(
    ("place", "ids", "reported"),
    [
        pytest.param("Topic", ["E9101", "E3001"], "E9101 for Topic", id="for-a-resource"),
        pytest.param("Topic", ["E91"], "", id="for-a-resource-only-by-its-whole-id"),
        pytest.param("", ["E9101"], "E9101", id="for-the-template"),
        pytest.param("", ["E900", "W9999"], "E9001, E9002, E9003", id="all-that-begin-so"),
        pytest.param("", ["E0"], "E0002", id="that-a-rule-crashed"),
        pytest.param("", ["E3"], "", id="none-of-ours"),
    ],
)
def test_disabled_rules_of_ours_are_reported(
    validate: Callable[..., Run], tmp_path: Path, place: str, ids: list[str], reported: str
) -> None:
    topic: dict[str, object] = {"Type": "AWS::SNS::Topic"}
    template: dict[str, object] = {"Resources": {"Topic": topic}}
    wish = {"cfn-lint": {"config": {"ignore_checks": ids}}}
    (topic if place else template)["Metadata"] = wish
    path = tmp_path / "template.json"
    path.write_text(json.dumps(template))
    run = validate(path)
    assert (run.status, run.out) == (4 if reported else 0, "")
    assert validate(path, "--", "--non-zero-exit-code", "error").status == 0
    if reported:
        assert run.err.startswith(f"warning: {path}: its own Metadata turns off {reported}")
        assert len(run.err.splitlines()) == 1  # and it is not reported as valid
    else:
        assert run.err == f"1 valid: {path}\n"


def test_metadata_of_a_template_does_not_affect_the_next_file(
    validate: Callable[..., Run], tmp_path: Path
) -> None:
    first, second = tmp_path / "a.json", tmp_path / "b.yaml"
    wishes = {"ignore_bad_template": True, "ignore_checks": ["E0000"]}
    topic = {"Topic": {"Type": "AWS::SNS::Topic"}}
    metadata = {"cfn-lint": {"config": wishes}}
    first.write_text(json.dumps({"Metadata": metadata, "Resources": topic}))
    second.write_text("Resources:\n  Topic:\n    Type: AWS::SNS::Topic\n   X: does not parse\n")
    run = validate(first, second)
    assert run.status == 2
    assert run.rules() == {"E0000"}
    assert " valid: " not in run.err


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize(
    ("metadata", "place"),
    [
        (None, "Metadata"),
        ([], "Metadata"),
        ({"cfn-lint": "x"}, "Metadata/cfn-lint"),
        ({"cfn-lint": {"config": 5}}, "Metadata/cfn-lint/config"),
        (
            {"cfn-lint": {"config": {"ignore_checks": ["E9101", {}]}}},
            "Metadata/cfn-lint/config/ignore_checks",
        ),
    ],
)
def test_metadata_that_crashes_cfn_lint_is_one_line_error(
    validate: Callable[..., Run], tmp_path: Path, metadata: object, place: str, *, inside: bool
) -> None:
    topic: dict[str, object] = {"Type": "AWS::SNS::Topic"}
    template: dict[str, object] = {"Resources": {"Topic": topic}}
    (topic if inside else template)["Metadata"] = metadata
    path = tmp_path / "template.json"
    path.write_text(json.dumps(template))
    run = validate(path)
    above = "Resources/Topic/" if inside else ""
    assert (run.status, run.out) == (1, "")
    assert run.err.startswith(f"error: {path}: {above}{place} has the wrong type")
    assert run.err.count("\n") == 1
