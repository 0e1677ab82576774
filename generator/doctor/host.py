"""Checks of what the enclave host needs before an artifact arrives and an enclave runs."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from generator.doctor.checks import Context, Finding, fix, look, ok, program
from generator.parameters import BUCKET_KEY, BUCKET_NAME, PARENT_ROLE
from generator.services import aws, stacks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

METADATA: Final = "http://169.254.169.254"
METADATA_SECONDS: Final = 2
ETC: Final = Path("/etc/nitro_enclaves")
MEMORY_FACTOR: Final = 4
"""nitro-cli demands memory of this many times the image (E26)."""
CONFIGURATION_MAX: Final = 1 << 20
MEBIBYTE: Final = 1 << 20
NITRO_CLI: Final = "sudo dnf install aws-nitro-enclaves-cli, on an instance with enclaves enabled"
ALLOCATOR: Final = "then sudo systemctl restart nitro-enclaves-allocator.service"


def stack(context: Context) -> Iterator[Finding]:
    """Report why the bucket's stack does not name the bucket, unless a parameter does."""
    if BUCKET_NAME.name in context.parameters:
        return
    name = f"{BUCKET_NAME.name}=…"
    found = stacks.find(context.client("cloudformation"), context.stack_name)
    if found is None:
        text = f"{context.stack_name} does not exist in this account and region"
        yield look("stack", text, f"pass --stack-name of the bucket's stack, or {name}")
    else:
        text = f"{context.stack_name} has no output {BUCKET_NAME.name}"
        yield look("stack", text, f"pass --stack-name of another stack, or {name}")


def bucket(context: Context) -> Iterator[Finding]:
    """Check that the bucket exists, is this account's, is versioned and takes large uploads."""
    from botocore.exceptions import ClientError

    name = context.parameters.get(BUCKET_NAME.name)
    if not name:
        yield look("bucket", "its name is not known", f"pass {BUCKET_NAME.name}=…")
        return
    s3 = context.client("s3")
    try:
        s3.head_bucket(Bucket=name, ExpectedBucketOwner=context.identity["account"])
    except ClientError as error:
        if aws.code(error) not in ("403", "404"):
            raise
        text = f"{name} does not exist, or belongs to another account"
        yield fix("bucket", text, "deploy the sharing bucket template")
        return
    yield ok("bucket", f"{name} belongs to this account")
    controls = s3.get_bucket_ownership_controls(Bucket=name)["OwnershipControls"]["Rules"]
    if controls[0]["ObjectOwnership"] != "BucketOwnerEnforced":
        text = (
            f"{name} has object ownership {controls[0]['ObjectOwnership']}, so artifacts larger "
            "than 5 GiB may be refused"
        )
        yield look("bucket", text, "set BucketOwnerEnforced, as the template does")
    if s3.get_bucket_versioning(Bucket=name).get("Status") != "Enabled":
        yield look("bucket", f"{name} keeps only one version of an object", "enable versioning")
    try:
        s3.get_bucket_policy(Bucket=name)
    except ClientError as error:
        if aws.code(error) != "NoSuchBucketPolicy":
            raise
        text = f"{name} has no policy, so no other account can upload to it"
        yield fix(
            "bucket", text, "deploy the sharing bucket template, or allow the owner s3:PutObject"
        )


def bucket_key(context: Context) -> Iterator[Finding]:
    """Check that the bucket's key is enabled."""
    key = context.parameters.get(BUCKET_KEY.name)
    if not key:
        return
    found = context.client("kms", aws.region_of(key)).describe_key(KeyId=key)["KeyMetadata"]
    if found["KeyState"] == "Enabled":
        yield ok("bucket key", f"{key} is enabled")
    else:
        yield fix("bucket key", f"{key} is {found['KeyState']}", "enable it")


def instance(context: Context) -> Iterator[Finding]:
    """Check that this is an instance with a role, and that its metadata require IMDSv2."""
    if os.environ.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true":
        yield look("instance", "its metadata service is disabled (AWS_EC2_METADATA_DISABLED)")
        return
    try:
        token = _metadata("api/token", "PUT", {"X-aws-ec2-metadata-token-ttl-seconds": "60"})
        name = _metadata(
            "meta-data/iam/security-credentials/", "GET", {"X-aws-ec2-metadata-token": token}
        )
    except urllib.error.HTTPError as error:
        text = f"the instance has no role ({error.code})"
        yield fix("instance", text, "attach an instance profile with the parent's role")
        return
    except OSError as error:
        reason = getattr(error, "reason", error)
        text = f"the metadata service does not answer: {reason}"
        yield look("instance", text, "run this on the parent instance")
        return
    yield ok("instance", f"has the role {name.split()[0] if name.strip() else 'unknown'}")
    wanted = context.parameters.get(PARENT_ROLE.name, "").rpartition("/")[2]
    if wanted and wanted not in name.split():
        text = f"the owner restricts the key to role {wanted}, which this instance does not have"
        yield fix("instance", text, "attach that role, or give the owner the name of this one")
    try:
        _metadata("meta-data/instance-id", "GET", {})
    except OSError:
        yield ok("IMDSv2", "is required")
    else:
        todo = "aws ec2 modify-instance-metadata-options --http-tokens required --instance-id …"
        yield look("IMDSv2", "is not required, so requests without a token are answered", todo)


def _metadata(path: str, method: str, headers: dict[str, str]) -> str:
    """Send a request to the instance's metadata service, never through a proxy."""
    base = os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT", METADATA).rstrip("/")
    if not base.startswith(("http://", "https://")):
        raise OSError(f"{base} is not an address")
    request = urllib.request.Request(f"{base}/latest/{path}", method=method, headers=headers)  # noqa: S310 - see above
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=METADATA_SECONDS) as answer:
        return str(answer.read(4096).decode(errors="replace"))


def parent_role(context: Context) -> Iterator[Finding]:
    """Check that the role exists to which the owner restricts the key."""
    from botocore.exceptions import ClientError

    path = context.parameters.get(PARENT_ROLE.name)
    if not path:
        return
    name = path.rpartition("/")[2]
    try:
        found = context.client("iam").get_role(RoleName=name)["Role"]["Arn"]
    except ClientError as error:
        if aws.code(error) != "NoSuchEntity":
            raise
        todo = "create it before the owner deploys, since KMS checks that it exists"
        yield fix("parent role", f"{name} does not exist in this account", todo)
        return
    if found.partition(":role/")[2] == path:
        yield ok("parent role", f"{found} exists")
    else:
        text = f"the role's path and name are {found.partition(':role/')[2]}, not {path}"
        yield fix("parent role", text, "give the owner the right path and name")


def decrypt_permission(key: str | None) -> Callable[[Context], Iterator[Finding]]:
    """Return a check that the role may call kms:Decrypt on the owner's *key*."""

    def permission(context: Context) -> Iterator[Finding]:
        role = context.parameters.get(PARENT_ROLE.name)
        if not key or not role:
            return
        iam = context.client("iam")
        arn = iam.get_role(RoleName=role.rpartition("/")[2])["Role"]["Arn"]
        answer = iam.simulate_principal_policy(
            PolicySourceArn=arn, ActionNames=["kms:Decrypt"], ResourceArns=[key]
        )
        if answer["EvaluationResults"][0]["EvalDecision"] == "allowed":
            yield ok("permission", f"{role} may call kms:Decrypt on {key}")
        else:
            todo = "attach the owner's output ParentRolePolicy to the role"
            yield fix("permission", f"{role} is not allowed to call kms:Decrypt on {key}", todo)

    return permission


def nitro_cli(_: Context) -> Iterator[Finding]:
    """Check that nitro-cli is installed."""
    yield from program("nitro-cli", "it runs enclaves", NITRO_CLI)


def allocator(folder: Path, image: Path | None) -> Callable[[Context], Iterator[Finding]]:
    """Return a check that memory is reserved for enclaves, and enough for one of *image*."""

    def memory(_: Context) -> Iterator[Finding]:
        file = folder / "allocator.yaml"
        found = _yaml(file)
        mebibytes = found.get("memory_mib") if isinstance(found, dict) else None
        if not isinstance(mebibytes, str) or not mebibytes.isdecimal():
            lack = "has no memory_mib" if file.exists() else "does not exist"
            yield fix("allocator", f"{file} {lack}", NITRO_CLI)
            return
        size = image.stat().st_size if image else 0
        needed = (MEMORY_FACTOR * size + MEBIBYTE - 1) // MEBIBYTE
        text = f"{mebibytes} MiB and {found.get('cpu_count', 'no')} CPUs are reserved for enclaves"
        if int(mebibytes) < needed:
            todo = f"set memory_mib to at least {needed} in {file}, {ALLOCATOR}"
            text += (
                f"; {image} needs at least {needed} MiB, 4 times its size; a run may need more: "
                "docs/enclave.md"
            )
            yield fix("allocator", text, todo)
        else:
            yield ok("allocator", text)

    return memory


def allowlist(folder: Path, region: str | None) -> Callable[[Context], Iterator[Finding]]:
    """Return a check that vsock-proxy allows enclaves to reach KMS in *region*."""

    def proxy(context: Context) -> Iterator[Finding]:
        file = folder / "vsock-proxy.yaml"
        found = _yaml(file)
        entries = found.get("allowlist") if isinstance(found, dict) else None
        wanted = region or context.account.region
        china = ".cn" if str(wanted).startswith("cn-") else ""
        host = f"kms.{wanted}.amazonaws.com{china}"
        listed = entries if isinstance(entries, list) else []
        if any(
            isinstance(each, dict) and (each.get("address"), each.get("port")) == (host, "443")
            for each in listed
        ):
            yield ok("vsock-proxy", f"{file} allows enclaves to reach {host}")
        elif not file.exists():
            yield fix("vsock-proxy", f"{file} does not exist", NITRO_CLI)
        else:
            line = f"- {{address: {host}, port: 443}}"
            yield fix("vsock-proxy", f"{file} does not list {host}", f"add {line} to its allowlist")

    return proxy


def _yaml(file: Path) -> Any:  # noqa: ANN401 - whatever a file holds
    """Read a nitro-cli configuration file, each scalar as text; None if it cannot be read."""
    import yaml

    try:
        with file.open("rb") as opened:
            return yaml.load(opened.read(CONFIGURATION_MAX), Loader=yaml.BaseLoader)  # noqa: S506 - builds only text, lists and maps
    except (OSError, yaml.YAMLError, UnicodeDecodeError, RecursionError):
        return None
