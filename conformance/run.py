"""One run: its two accounts, the names of what it creates, and what its steps share."""

from __future__ import annotations

import argparse
import os
import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from generator.errors import GeneratorError
from generator.services import aws, stacks

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

TAG: Final = "application-encryptor-conformance"
"""The tag on everything that a run makes; its value is the run's id."""
ID: Final = re.compile(r"[0-9a-f]{8}")
ROLES: Final = f"/{TAG}"
OWNER, HOST = "owner", "host"


class Party:
    """One of the two accounts, and whoever acts in it by an AWS profile."""

    def __init__(self, side: str, profile: str, region: str | None) -> None:
        """Find out which account *profile* reaches.

        Raises:
            GeneratorError: it reaches none, or names no region.
        """
        self.side, self.profile = side, profile
        with aws.failures(f"profile {profile}"):
            self._account = aws.Account(argparse.Namespace(profile=profile, region=region))
            if self._account.region is None:
                raise GeneratorError("it names no region: pass --region, or set AWS_REGION")
            identity = self._account.client("sts").get_caller_identity()
        self.number: str = identity["Account"]
        self.caller: str = identity["Arn"]
        self.partition = self.caller.split(":")[1]
        self._clients: dict[str, Any] = {}

    @property
    def region(self) -> str:
        """Return the region of the clients."""
        return str(self._account.region)

    @property
    def root(self) -> str:
        """Return the principal that stands for the whole account in a policy."""
        return f"arn:{self.partition}:iam::{self.number}:root"

    def client(self, service: str) -> Any:  # noqa: ANN401 - as boto3's
        """Return a client of *service*."""
        if service not in self._clients:
            self._clients[service] = self._account.client(service)
        return self._clients[service]


@dataclass
class RoleSession:
    """A role that a run has made and assumed."""

    arn: str
    region: str
    credentials: Mapping[str, Any] = field(repr=False)
    _clients: dict[str, Any] = field(default_factory=dict)

    def client(self, service: str) -> Any:  # noqa: ANN401 - as boto3's
        """Return a client of *service* that acts as the role."""
        if service not in self._clients:
            make: Any = self._session.client  # typed per service, by literal names only
            self._clients[service] = make(service)
        return self._clients[service]

    @cached_property
    def _session(self) -> Any:  # noqa: ANN401 - boto3's
        import boto3

        return boto3.Session(
            aws_access_key_id=self.credentials["AccessKeyId"],
            aws_secret_access_key=self.credentials["SecretAccessKey"],
            aws_session_token=self.credentials["SessionToken"],
            region_name=self.region,
        )

    @property
    def environment(self) -> dict[str, str]:
        """Return the environment of a program that acts as the role."""
        inherited = {name: text for name, text in os.environ.items() if name != "AWS_PROFILE"}
        return inherited | {
            "AWS_ACCESS_KEY_ID": self.credentials["AccessKeyId"],
            "AWS_SECRET_ACCESS_KEY": self.credentials["SecretAccessKey"],
            "AWS_SESSION_TOKEN": self.credentials["SessionToken"],
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
        }


@dataclass(frozen=True)
class Names:
    """The names of what a run creates: the prefix contains its id, all other names the prefix."""

    prefix: str
    host_bucket: str
    owner_stack: str
    second_stack: str
    other_project: str
    alias: str
    role_path: str

    @classmethod
    def of(cls, run: str) -> Names:
        """Return the names of the run with that id.

        The prefix is the ThirdPartyIdentifier of the host's bucket, which has 20 characters.
        """
        prefix = f"conformance-{run}"
        return cls(
            prefix=prefix,
            host_bucket=f"{prefix}-bucket",
            owner_stack=f"{prefix}-encryptor",
            second_stack=f"{prefix}-second",
            other_project=f"{prefix}-other",
            alias=f"alias/{prefix}",
            role_path=f"{ROLES}/{run}/",
        )


@dataclass(frozen=True)
class Source:
    """A kind of source.

    ``make`` stores the application there and returns a description of it; ``application`` is what
    the artifact must contain, None if the run did not choose it.
    """

    template: str
    make: Callable[[Run], str]
    found: Callable[[Run], str | None]
    parameters: Callable[[Run], Mapping[str, str]]
    application: Mapping[str, bytes] | None


@dataclass
class Run:
    """What every step is given."""

    id: str
    owner: Party
    host: Party
    folder: Path
    """For files of this run on this machine; it is removed at the end."""
    source: Source
    image: str
    """The PCR0 to bind: that of --image, else a random one, for which no image exists."""
    patience: float = 60
    """Seconds in which a new role or policy must have reached all of AWS's servers."""
    enclave: str | None = None
    """Where an enclave of that image listens, in the form of the client's --address."""
    large: bool = False
    roles: dict[str, RoleSession] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    """What a step found that later ones need: the build's SHA-256, the artifact's file."""

    @property
    def names(self) -> Names:
        """Return the names of what this run makes."""
        return Names.of(self.id)

    @property
    def region(self) -> str:
        """Return the region in which everything is made."""
        return self.owner.region

    @property
    def tags(self) -> dict[str, str]:
        """Return the tags of what this run makes."""
        return {TAG: self.id}

    def stack(self, party: Party, name: str) -> Any:  # noqa: ANN401 - as boto3's
        """Return the description of a stack of this run, None if it is missing or incomplete."""
        found = stacks.find(party.client("cloudformation"), name)
        whole = ("CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE")
        return found if found and found["StackStatus"] in whole else None

    @property
    def shared(self) -> dict[str, str]:
        """Return the outputs of the host's stack: parameters of the owner's."""
        return self._outputs(self.host, self.names.host_bucket)

    @property
    def encryptor(self) -> dict[str, str]:
        """Return the outputs of the owner's stack."""
        return self._outputs(self.owner, self.names.owner_stack)

    def _outputs(self, party: Party, name: str) -> dict[str, str]:
        if name not in self.facts:
            found = self.stack(party, name)
            if found is None:
                raise GeneratorError(f"stack {name}: is missing or incomplete: see its events")
            self.facts[name] = stacks.outputs(found)
        outputs: dict[str, str] = self.facts[name]
        return outputs

    @property
    def project(self) -> Any:  # noqa: ANN401 - as boto3's
        """Return the description of the owner's CodeBuild project."""
        client = self.owner.client("codebuild")
        name = self.encryptor["ProjectName"]
        found = client.batch_get_projects(names=[name])["projects"]
        if not found:
            raise GeneratorError(f"project {name}: CodeBuild does not find it")
        return found[0]

    @property
    def artifact_key(self) -> str:
        """Return the name of the artifact in the host's bucket."""
        return self.encryptor["ArtifactUri"].split("/", 3)[3]
