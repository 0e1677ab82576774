"""Rendering: the generator writes what is checked in, documented, and promised."""

import ast
import dataclasses
import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from generator import parameters
from generator.limits import BUILDSPEC_BUDGET, DIRECT_DEPLOYMENT_MAX
from generator.parameters import KNOWN_PARAMETERS, SHARING_PARAMETERS, TemplateParameter
from generator.templates.buildspec import VARIABLES
from tests.support.paths import ENCRYPTOR_TEMPLATE, PROJECT, SHARING_TEMPLATE

CONTRACT = {
    "EncryptionKeyAlias": "alias/enclavekey",
    "CodeCommitRepositoryName": None,
    "ApplicationCodeDirectoryName": None,
    "ExternalBucketName": None,
    "ExternalBucketPath": "encrypted",
    "ExternalBucketEncryptionKeyArn": None,
    "ExternalBucketAWSAccountNumber": None,
}


class _ShortForm(yaml.SafeLoader):
    """Reads !Name as {"Name": value}."""


def _intrinsic(loader: yaml.SafeLoader, name: str, node: yaml.Node) -> dict[str, Any]:
    if isinstance(node, yaml.ScalarNode):
        return {name: loader.construct_scalar(node)}
    if isinstance(node, yaml.SequenceNode):
        return {name: loader.construct_sequence(node, deep=True)}
    assert isinstance(node, yaml.MappingNode)
    return {name: loader.construct_mapping(node, deep=True)}


_ShortForm.add_multi_constructor("!", _intrinsic)


def load(path: Path) -> Any:  # noqa: ANN401 - a template is any YAML
    return yaml.load(path.read_text(), Loader=_ShortForm)  # noqa: S506 - a SafeLoader


def render(
    *arguments: str, cwd: Path = PROJECT, **environment: str
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "generator", "render", *arguments]
    return subprocess.run(
        command, cwd=cwd, env=os.environ | environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def encryptor() -> dict[str, Any]:
    return dict(load(ENCRYPTOR_TEMPLATE))


@pytest.fixture(scope="module")
def buildspec(encryptor: dict[str, Any]) -> dict[str, Any]:
    text = encryptor["Resources"]["EncryptorProject"]["Properties"]["Source"]["BuildSpec"]
    assert isinstance(text, str), "an intrinsic function would substitute into shell text"
    return dict(yaml.safe_load(text))


def commands(buildspec: dict[str, Any]) -> list[str]:
    return [command for phase in buildspec["phases"].values() for command in phase["commands"]]


def embedding(command: str) -> bool:
    return "<<'" in command  # the shell expands nothing in such a here-document


@pytest.mark.parametrize("seed", ["0", "1", "random"])
def test_checked_in_templates_are_as_rendered(tmp_path: Path, seed: str) -> None:
    run = render(cwd=tmp_path, PYTHONHASHSEED=seed)
    assert run.returncode == 0, run.stderr
    rendered = {path.name: path.read_bytes() for path in (tmp_path / "templates").iterdir()}
    assert rendered == {
        path.name: path.read_bytes() for path in ENCRYPTOR_TEMPLATE.parent.iterdir()
    }
    assert len(rendered) == 4


def test_standard_output_has_only_the_encryptor_template() -> None:
    assert render("-o", "-").stdout.encode() == ENCRYPTOR_TEMPLATE.read_bytes()


@pytest.mark.parametrize(
    ("source", "name"), [("codecommit", ""), ("s3", "-S3"), ("connection", "-Connection")]
)
def test_each_source_has_its_own_template(tmp_path: Path, source: str, name: str) -> None:
    checked_in = PROJECT / f"templates/Deploy-ApplicationEncryptor{name}-Cfn.yaml"
    run = render("--source", source, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert [path.name for path in (tmp_path / "templates").iterdir()] == [checked_in.name]
    assert render("--source", source, "-o", "-").stdout.encode() == checked_in.read_bytes()


@pytest.mark.parametrize(
    "path", sorted(ENCRYPTOR_TEMPLATE.parent.glob("*Encryptor*")), ids=lambda p: p.name
)
def test_templates_differ_only_in_the_source(path: Path) -> None:
    template = load(path)
    assert path.stat().st_size <= DIRECT_DEPLOYMENT_MAX
    project = template["Resources"]["EncryptorProject"]["Properties"]
    assert len(project["Source"]["BuildSpec"]) <= BUILDSPEC_BUDGET
    # Everything except the source is the same, including the buildspec.
    first = load(ENCRYPTOR_TEMPLATE)
    assert template["Resources"].keys() == first["Resources"].keys()
    for name in ("EnclaveKey", "EnclaveKeyAlias", "BuildLog"):
        assert template["Resources"][name] == first["Resources"][name]
    assert (
        project["Source"]["BuildSpec"]
        == (first["Resources"]["EncryptorProject"]["Properties"]["Source"]["BuildSpec"])
    )
    assert template["Outputs"] == first["Outputs"]
    own = CONTRACT.keys() - {"CodeCommitRepositoryName"}
    declared = {name: each.get("Default") for name, each in template["Parameters"].items()}
    assert {name: declared[name] for name in own} == {name: CONTRACT[name] for name in own}


def test_remaining_space_is_printed(tmp_path: Path) -> None:
    run = render("-o", str(tmp_path / "template.yaml"))
    size = ENCRYPTOR_TEMPLATE.stat().st_size
    assert f"{size:,} bytes, {DIRECT_DEPLOYMENT_MAX - size:,} left" in run.stdout
    project = load(ENCRYPTOR_TEMPLATE)["Resources"]["EncryptorProject"]["Properties"]
    length = len(project["Source"]["BuildSpec"])
    assert length <= BUILDSPEC_BUDGET
    assert f"buildspec: {length:,} characters, {BUILDSPEC_BUDGET - length:,} left" in run.stdout


def test_unwritable_output_is_one_line_error() -> None:
    run = render("-o", "/nowhere/template.yaml")
    assert (run.returncode, run.stderr.count("\n")) == (1, 1)
    assert run.stderr == (
        "error: /nowhere/template.yaml: No such file or directory: "
        "check the path and its permissions\n"
    )


def test_templates_fit_a_direct_deployment() -> None:
    for path in (ENCRYPTOR_TEMPLATE, SHARING_TEMPLATE):
        assert path.stat().st_size <= DIRECT_DEPLOYMENT_MAX


def test_seven_parameters_of_the_contract_are_unchanged(encryptor: dict[str, Any]) -> None:
    declared = {name: found.get("Default") for name, found in encryptor["Parameters"].items()}
    assert {name: declared.get(name) for name in CONTRACT} == CONTRACT
    assert all(declared[name] is not None for name in declared.keys() - CONTRACT.keys())


def test_additional_parameter_leaves_the_contract_unchanged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    new = dataclasses.replace(parameters.PARENT_ROLE, name="New")
    monkeypatch.setattr(parameters, "OF_EVERY_SOURCE", (new, *parameters.OF_EVERY_SOURCE))
    assert new in parameters.encryptor_parameters()
    contract = {each.name: each.default for each in parameters.contract_parameters()}
    assert contract == CONTRACT


@pytest.mark.parametrize(
    "template", [ENCRYPTOR_TEMPLATE, SHARING_TEMPLATE], ids=lambda path: path.stem
)
def test_every_parameter_is_described_constrained_and_grouped(template: Path) -> None:
    found = load(template)
    interface = found["Metadata"]["AWS::CloudFormation::Interface"]
    grouped = [name for group in interface["ParameterGroups"] for name in group["Parameters"]]
    assert sorted(grouped) == sorted(found["Parameters"]) == sorted(interface["ParameterLabels"])
    for declaration in found["Parameters"].values():
        assert {"Description", "AllowedPattern", "ConstraintDescription"} <= declaration.keys()


PCR0 = "0123456789abcdef" * 6
TAKEN = {
    "EncryptionKeyAlias": ["alias/enclavekey", "alias/team/enclave_key-2"],
    "CodeCommitRepositoryName": ["application", "My.App_2"],
    "ApplicationCodeDirectoryName": ["application", "src/app@2+x", "models/v1.2/", "./app"],
    "ExternalBucketName": ["a-code-bucket-111122223333-eu-west-1", "abc"],
    "ExternalBucketPath": ["encrypted", "a/b=c/d.e"],
    "ExternalBucketEncryptionKeyArn": [
        "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab",
        "arn:aws-cn:kms:cn-north-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab",
        "arn:aws-us-gov:kms:us-gov-west-1:111122223333:key/mrk-1234abcd12ab34cd56ef1234567890ab",
    ],
    "ExternalBucketAWSAccountNumber": ["111122223333"],
    "EnclaveImageSha384": ["none", PCR0, PCR0.upper()],
    "ParentInstanceRoleName": ["", "parent", "service/parents/Parent+1=,.@-_"],
    "BuildComputeType": ["BUILD_GENERAL1_SMALL", "BUILD_GENERAL1_2XLARGE"],
    "ApplicationSourceBucketName": ["weights-of-the-owner"],
    "ApplicationSourceKey": ["app.zip", "models/v1.2/app=1.zip", "models/v1/", "weights/"],
    "RepositoryType": ["GITHUB", "GITLAB", "BITBUCKET", "GITHUB_ENTERPRISE"],
    "RepositoryUrl": [
        "https://github.com/owner/name",
        "https://gitlab.example.com:8443/group/sub.group/name.git",
        "https://bitbucket.org/~me/name",
    ],
    "ConnectionArn": [
        f"arn:aws:{service}:eu-west-1:111122223333:connection/1234abcd-12ab-34cd-56ef-1234567890ab"
        for service in ("codeconnections", "codestar-connections")
    ],
    "ThirdPartyIdentifier": ["a", "acme-2", "a" * 20],
    "ThirdPartyAWSAccountNumber": ["111122223333"],
}


@pytest.mark.parametrize(
    "parameter", [*KNOWN_PARAMETERS, *SHARING_PARAMETERS], ids=lambda parameter: parameter.name
)
def test_patterns_accept_valid_and_refuse_hostile_values(
    parameter: TemplateParameter,
) -> None:
    taken = [value for value in parameter.refused if re.fullmatch(parameter.pattern, value)]
    assert taken == []
    values = TAKEN[parameter.name]
    assert values == [value for value in values if re.fullmatch(parameter.pattern, value)]


def test_key_policy_has_exactly_three_statements(encryptor: dict[str, Any]) -> None:
    statements = encryptor["Resources"]["EnclaveKey"]["Properties"]["KeyPolicy"]["Statement"]
    account, host, everybody = (
        {name: value for name, value in statement.items() if name != "Sid"}
        for statement in statements
    )
    root = "arn:${AWS::Partition}:iam::${%s}:%s"
    assert account == {
        "Effect": "Allow",
        "Principal": {"AWS": {"Sub": root % ("AWS::AccountId", "root")}},
        "Action": ["kms:*"],
        "Resource": ["*"],
    }
    name = "ExternalBucketAWSAccountNumber"
    narrowed = {"Sub": root % (name, "role/${ParentInstanceRoleName}")}
    assert host == {
        "Effect": "Allow",
        "Principal": {
            "AWS": {"If": ["HostIsNarrowedToRole", narrowed, {"Sub": root % (name, "root")}]}
        },
        "Action": ["kms:Decrypt"],
        "Resource": ["*"],
    }
    images = {"kms:RecipientAttestation:ImageSha384": {"Ref": "EnclaveImageSha384"}}
    assert everybody == {
        "Effect": "Deny",
        "Principal": "*",
        "Action": ["kms:Decrypt", "kms:ReEncryptFrom"],
        "Resource": ["*"],
        "Condition": {"StringNotEqualsIgnoreCase": images},
    }


@pytest.mark.parametrize(
    "name", ["encryption/envelope_encryptor.py", "encryption/artifact_uploader.py"]
)
def test_embedded_program_matches_the_source(buildspec: dict[str, Any], name: str) -> None:
    start = f"cat > {Path(name).name} <<'END'\n"
    (command,) = [command for command in commands(buildspec) if command.startswith(start)]
    text = command.removeprefix(start).removesuffix("END\n")
    assert syntax(text) == syntax((PROJECT / name).read_text())
    assert "#" not in re.sub(r'"[^"]*"', "", text), "a comment"
    lines = text.splitlines()
    assert [line for line in lines if not line.strip()] == []
    indentation = [len(line) - len(line.lstrip()) for line in lines]
    assert max(after - before for before, after in pairwise(indentation)) == 1


def syntax(program: str) -> str:
    """Return a program's syntax tree without docstrings, which it must not use."""
    assert "__doc__" not in program
    tree = ast.parse(program)
    for node in ast.walk(tree):
        match node:
            case ast.Module() | ast.ClassDef() | ast.FunctionDef():
                if ast.get_docstring(node, clean=False) is not None:
                    node.body = node.body[1:] or [ast.Expr(ast.Constant(...))]
    return ast.dump(tree)


def test_environment_variables_are_as_reviewed(encryptor: dict[str, Any]) -> None:
    project = encryptor["Resources"]["EncryptorProject"]["Properties"]
    variables = project["Environment"]["EnvironmentVariables"]
    assert tuple(variable["Name"] for variable in variables) == VARIABLES


def test_every_command_has_valid_shell_syntax(buildspec: dict[str, Any]) -> None:
    for command in commands(buildspec):
        run = subprocess.run(
            ["bash", "-n"], input=command, text=True, capture_output=True, check=False
        )
        assert (run.returncode, run.stderr) == (0, "")


def test_every_variable_in_a_command_is_quoted(buildspec: dict[str, Any]) -> None:
    for command in commands(buildspec):
        if embedding(command):
            continue
        outside = re.sub(r"'[^']*'|\$\(\(.*?\)\)", "", command)  # arithmetic is never split
        outside = re.sub(r'"[^"]*"', "", outside)
        assert re.findall(r"\$\w+|\$\{", outside) == [], command


def test_build_installs_only_wheels_by_hash(buildspec: dict[str, Any]) -> None:
    ours = [command for command in commands(buildspec) if not embedding(command)]
    (install,) = [command for command in ours if "pip install" in command]
    assert {"--only-binary", ":all:", "--require-hashes"} <= set(install.split())
    (lock,) = [command for command in commands(buildspec) if "requirements.txt <<" in command]
    comment, *pins = (PROJECT / "requirements/codebuild.txt").read_text().splitlines()
    assert comment.startswith("# ")
    assert lock.splitlines()[1:-1] == pins


def test_outputs_of_the_host_are_parameters_of_the_owner(encryptor: dict[str, Any]) -> None:
    assert set(load(SHARING_TEMPLATE)["Outputs"]) <= set(encryptor["Parameters"])
