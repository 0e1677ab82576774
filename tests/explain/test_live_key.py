"""A live key, read through the API: an open policy, a grant or a changed policy is reported."""

import json
import subprocess
from collections.abc import Callable

import pytest

from rehearsal.aws import ENCRYPTOR, REGION, Aws, Credentials
from tests.support import stacks, verb
from tests.support.endpoint import serve
from tests.support.example import HOST
from tests.support.example import PARAMETERS as EXAMPLE

PARAMETERS = EXAMPLE | {"EnclaveImageSha384": ",".join(["ab" * 48, "cd" * 48])}

Explain = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def key(aws: Aws, owner: Credentials) -> str:
    return stacks.deploy(aws, owner, "encryptor", ENCRYPTOR, PARAMETERS)["EnclaveKeyARN"]


@pytest.fixture
def explain(aws: Aws, owner: Credentials) -> Explain:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return verb.run("explain", *arguments, environment=aws.environment(owner))

    return run


def test_key_as_deployed_is_closed_without_drift(explain: Explain, key: str) -> None:
    run = explain("--key", key)
    assert (run.returncode, run.stderr) == (0, "")
    assert "Nobody decrypts without attesting a bound image." in run.stdout
    assert "drift" not in run.stdout
    assert HOST in run.stdout


def test_manually_changed_policy_is_open_and_drift(
    aws: Aws, owner: Credentials, explain: Explain, key: str
) -> None:
    kms = aws.client(owner, "kms")
    policy = json.loads(kms.get_key_policy(KeyId=key)["Policy"])
    policy["Statement"] = policy["Statement"][:2]
    kms.put_key_policy(KeyId=key, PolicyName="default", Policy=json.dumps(policy))
    run = explain("--key", key, "--format", "json")
    assert run.returncode == 1
    found = json.loads(run.stdout)
    assert found["verdict"] == "open"
    assert any("only in the template" in each and "Deny" in each for each in found["drift"])


def test_manually_bound_image_is_drift(
    aws: Aws, owner: Credentials, explain: Explain, key: str
) -> None:
    kms = aws.client(owner, "kms")
    policy = kms.get_key_policy(KeyId=key)["Policy"].replace("ab" * 48, "ef" * 48)
    kms.put_key_policy(KeyId=key, PolicyName="default", Policy=policy)
    run = explain("--key", key)
    assert run.returncode == 1
    assert "drift: only in the live policy" in run.stdout
    assert "Nobody decrypts without attesting a bound image." in run.stdout


def test_grant_is_reported_although_the_deny_overrides_it(
    aws: Aws, owner: Credentials, explain: Explain, key: str
) -> None:
    stranger = "arn:aws:iam::333333333333:root"
    aws.client(owner, "kms").create_grant(
        KeyId=key, GranteePrincipal=stranger, Operations=["Decrypt"]
    )
    run = explain("--key", key, "--format", "json")
    assert run.returncode == 1
    found = json.loads(run.stdout)
    assert found["verdict"] == "closed"
    assert found["drift"] == [f"grant for {stranger}: Decrypt"]


def test_key_without_a_stack_is_explained(aws: Aws, owner: Credentials, explain: Explain) -> None:
    made = aws.client(owner, "kms").create_key()["KeyMetadata"]["Arn"]
    run = explain("--key", made)
    assert run.returncode == 1
    assert "Somebody decrypts without attesting a bound image." in run.stdout


def test_key_is_found_by_its_stack(explain: Explain, key: str) -> None:
    run = explain("--stack", "encryptor", "--format", "json")
    assert (run.returncode, run.stderr) == (0, "")
    assert json.loads(run.stdout)["subject"] == key
    missing = explain("--stack", "another")
    assert (missing.returncode, missing.stdout) == (1, "")
    assert "does not exist" in missing.stderr


def test_the_account_of_the_arn_is_the_owner(
    aws: Aws, owner: Credentials, explain: Explain, key: str
) -> None:
    kms = aws.client(owner, "kms")
    policy = json.loads(kms.get_key_policy(KeyId=key)["Policy"])
    outsider = {"AWS": "arn:aws:iam::444455556666:root"}
    rule = {"Effect": "Allow", "Principal": outsider, "Action": "kms:*", "Resource": "*"}
    policy["Statement"] = [rule, *policy["Statement"]]
    kms.put_key_policy(KeyId=key, PolicyName="default", Policy=json.dumps(policy))
    run = explain("--key", key, "--format", "json")
    assert run.returncode == 1
    controls = json.loads(run.stdout)["controls"]
    assert any("444455556666" in row["principal"] for row in controls)


@pytest.mark.parametrize(
    ("operation", "said"),
    [
        ("ListGrants", "the key's grants could not be read"),
        ("ListAliases", "the key's aliases could not be read"),
        ("DescribeKey", "the key's usage could not be read"),
        ("ListResourceTags", "the key's tags, which name its stack, could not be read"),
    ],
)
def test_unreadable_properties_are_reported_and_the_rest_is_explained(
    aws: Aws, owner: Credentials, key: str, operation: str, said: str
) -> None:
    with serve(aws) as endpoint:
        endpoint.refusals[operation] = "AccessDeniedException"
        run = verb.run("explain", "--key", key, environment=endpoint.environment(owner))
    assert said in run.stdout
    assert run.returncode == 1
    assert "Nobody decrypts" not in run.stdout
    assert "Who can decrypt" in run.stdout
    assert "kms:PutKeyPolicy" in run.stdout
    assert run.stderr == ""


@pytest.mark.parametrize(
    ("arn", "why"),
    [
        pytest.param("alias/enclavekey", "is not the ARN of a KMS key", id="alias"),
        pytest.param(
            f"arn:aws:kms:{REGION}:111111111111:key/11111111-2222-3333-4444-555555555555",
            "NotFoundException",
            id="no-such-key",
        ),
    ],
)
def test_unreadable_key_is_one_line_error(explain: Explain, arn: str, why: str) -> None:
    run = explain("--key", arn)
    assert (run.returncode, run.stdout, run.stderr.count("\n")) == (1, "", 1)
    assert run.stderr.startswith(f"error: {arn}: ")
    assert why in run.stderr
