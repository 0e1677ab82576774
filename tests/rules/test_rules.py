"""Every rule finds every fault that it should, and nothing in a correct template."""

import subprocess
import sys
from pathlib import Path

import pytest

from generator.limits import BUILDSPEC_MAX, DIRECT_DEPLOYMENT_MAX
from tests.rules.conftest import Findings, validate, validated
from tests.support.paths import PROJECT

TEMPLATES = Path(__file__).with_name("templates")
OURS = PROJECT / "templates"
EXPECT = "# expect: "


@pytest.fixture(scope="session")
def findings() -> Findings:
    """Return rule and text of every finding in every fixture, by file, from a single run."""
    return validated(TEMPLATES.glob("*.yaml"))


def of_rule(findings: Findings, template: Path) -> list[str]:
    rule = template.name.split(".")[0]
    return [text for found, text in findings[template] if found == rule]


@pytest.mark.parametrize("bad", sorted(TEMPLATES.glob("*.bad.yaml")), ids=lambda path: path.name)
def test_bad_template_has_exactly_the_expected_findings(findings: Findings, bad: Path) -> None:
    expected = [
        line.removeprefix(EXPECT)
        for line in bad.read_text().splitlines()
        if line.startswith(EXPECT)
    ]
    assert expected
    assert sorted(of_rule(findings, bad)) == sorted(expected)


@pytest.mark.parametrize("good", sorted(TEMPLATES.glob("*.good.yaml")), ids=lambda path: path.name)
def test_good_template_has_no_findings(findings: Findings, good: Path) -> None:
    assert of_rule(findings, good) == []


def test_no_rule_crashes_on_any_fixture(findings: Findings) -> None:
    crashes = [text for found in findings.values() for rule, text in found if rule == "E0002"]
    assert crashes == []


CLASSIC_FAULTS = {
    "E9001": "ApplicationCodeDirectoryName is missing, but ApplicationCodeDirectory",
    "E9003": "ApplicationCodeDirectory is substituted into a shell command",
    "E9006": "is deleted with the stack",
    "E9201": "logs:PutLogEvents on *",
    "E9202": "any project",
    "E9203": "ExpectedBucketOwner",
    "E9205": "pip3 install boto3 cryptography",
    "W9101": "",
    "W9102": "",
    "W9206": "amazonlinux2-x86_64-standard:3.0",
    "W9207": "the name EnclaveKeyARN is fixed",
    "W9208": "no retention period",
}


@pytest.mark.parametrize("rule", CLASSIC_FAULTS)
def test_classic_template_has_the_expected_findings(findings: Findings, rule: str) -> None:
    found = [text for each, text in findings[TEMPLATES / "classic.yaml"] if each == rule]
    assert any(CLASSIC_FAULTS[rule] in text for text in found), found


def test_our_templates_have_no_findings_in_any_partition() -> None:
    regions = ["us-east-1", "eu-central-1", "cn-north-1", "cn-northwest-1", "us-gov-west-1"]
    options = ["--include-checks", "I", "--regions", *regions]
    run = validate(*sorted(OURS.glob("*.yaml")), "--", *options)
    assert (run.stdout, run.returncode) == ("", 0)
    assert run.stderr.startswith("4 valid: ")


def test_our_templates_ignore_no_check() -> None:
    assert not [path for path in OURS.glob("*.yaml") if "cfn-lint" in path.read_text()]


def test_a_template_too_large_for_a_direct_deployment_is_refused(tmp_path: Path) -> None:
    template = tmp_path / "large.yaml"
    text = (OURS / "Deploy-ApplicationEncryptor-Cfn.yaml").read_text()
    size = DIRECT_DEPLOYMENT_MAX + 1
    template.write_text(text.ljust(size - 1, "#") + "\n")
    run = validate(template)
    assert (
        f"the template has {size:,} bytes, more than {DIRECT_DEPLOYMENT_MAX:,}: shorten it"
        in run.stdout
    )


RESOURCE = """
Parameters: {Notes: {Type: String, MaxLength: 10}}
Resources:
  Build:
    Type: AWS::CodeBuild::Project
    Properties:
      ServiceRole: builder
      Artifacts: {Type: NO_ARTIFACTS}
      Environment: {Type: LINUX_CONTAINER, ComputeType: BUILD_GENERAL1_SMALL, Image: "a/b:7"}
      Source:
        Type: NO_SOURCE
        BuildSpec: %s
          version: 0.2
          env: {variables: {NOTES: "${Notes}"}}
          phases: {build: {commands: [make]}}
          # %s
"""


@pytest.mark.parametrize(
    ("function", "length", "message"),
    [
        pytest.param("|", BUILDSPEC_MAX, None, id="as-long-as-it-may-be"),
        pytest.param("|", BUILDSPEC_MAX + 1, "has 25,601 characters: CodeBuild", id="one-more"),
        pytest.param("!Sub |", BUILDSPEC_MAX - 2, None, id="with-the-longest-value"),
        pytest.param(
            "!Sub |",
            BUILDSPEC_MAX - 1,
            "has 25,591 characters, and up to 25,601 with the longest value of Notes",
            id="one-more-with-the-longest-value",
        ),
        pytest.param(
            "!Sub |",
            BUILDSPEC_MAX + 10,
            "has at least 25,602 characters, plus the value of Notes: CodeBuild accepts 25,600",
            id="whatever-the-value",
        ),
    ],
)
def test_buildspec_longer_than_codebuild_accepts_is_refused(
    function: str, length: int, message: str | None, tmp_path: Path
) -> None:
    """*length* counts ``${Notes}`` as 8 characters; its value has up to 10."""
    template = tmp_path / "project.yaml"
    body = RESOURCE % (function, "")
    text = "".join(line[10:] for line in body.splitlines(keepends=True)[12:])
    template.write_text(RESOURCE % (function, "x" * (length - len(text))))
    said = validate(template).stdout
    assert ("E9008" in said) is (message is not None), said
    assert (message or "") in said


@pytest.mark.parametrize(
    ("format_", "opening"),
    [("json", "["), ("sarif", "{"), ("junit", "<?xml"), ("parseable", "/"), ("pretty", "")],
)
def test_cfn_lints_output_formats_and_status_are_kept(format_: str, opening: str) -> None:
    run = validate(TEMPLATES / "E9001.bad.yaml", "--", "--format", format_)
    assert "E9001" in run.stdout
    assert run.stdout.startswith(opening)
    assert run.returncode & 2


def test_validation_does_not_import_troposphere() -> None:
    program = (
        "import sys; from generator.validation import validate;"
        "validate([sys.argv[1]], []); sys.exit('troposphere' in sys.modules)"
    )
    command = [sys.executable, "-c", program, str(TEMPLATES / "E9001.good.yaml")]
    assert subprocess.run(command, cwd=PROJECT, capture_output=True, check=False).returncode == 0
