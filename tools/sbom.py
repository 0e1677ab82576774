"""What a build and the enclave images install, as CycloneDX: `make sbom` writes build/sbom.json.

Everything comes from what is pinned: the lock files, the Dockerfile's bases, and the commits of
enclave/build_kmstool.sh. The same sources give the same bytes.
"""

import re
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from packageurl import PackageURL

from generator.templates.application_encryptor import IMAGE

ROOT = Path(__file__).parent.parent
OUTPUT = Path("build/sbom.json")
PIN = re.compile(r"^([\w.-]+)==([\w.+!-]+)((?: --hash=sha256:[0-9a-f]{64})+)$", re.MULTILINE)
BASE = re.compile(r"^FROM (\S+):(\S+?)@(sha256:[0-9a-f]{64}) AS", re.MULTILINE)
TABLE = re.compile(r"^(\S+) +(\S+/\S+) +([0-9a-f]{40}) +(\S+) ", re.MULTILINE)
VARIABLE = re.compile(r"^\w+=([0-9a-f]{40}) +# (\S+/\S+) (\S+)$", re.MULTILINE)
NO_TIME = datetime(1980, 1, 1, tzinfo=UTC)


def wheels(lock: str) -> Iterator[Component]:
    """Yield the packages that a lock file of wheels pins."""
    for name, version, hashes in PIN.findall((ROOT / "requirements" / lock).read_text()):
        digests = re.findall(r"sha256:([0-9a-f]{64})", hashes)
        purl = PackageURL("pypi", None, name, version)
        yield Component(
            name=name,
            version=version,
            purl=purl,
            bom_ref=f"{lock}: {purl}",
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest) for digest in digests],
        )


def sources() -> Iterator[Component]:
    """Yield the repositories that kmstool and the security module's library are built from."""
    script = (ROOT / "enclave/build_kmstool.sh").read_text()
    found = [(repository, commit, tag) for _, repository, commit, tag in TABLE.findall(script)]
    found += [(repository, commit, tag) for commit, repository, tag in VARIABLE.findall(script)]
    for repository, commit, tag in found:
        owner, name = repository.split("/")
        purl = PackageURL("github", owner, name, commit)
        yield Component(name=repository, version=tag, purl=purl, bom_ref=str(purl))


def bases() -> Iterator[Component]:
    """Yield the images that the enclave's is made from."""
    dockerfile = (ROOT / "enclave/Dockerfile").read_text()
    for repository, tag, digest in sorted(set(BASE.findall(dockerfile))):
        name = repository.rpartition("/")[2]
        purl = PackageURL("oci", None, name, digest, {"repository_url": repository, "tag": tag})
        yield Component(
            name=repository,
            version=tag,
            type=ComponentType.CONTAINER,
            purl=purl,
            bom_ref=str(purl),
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest.removeprefix("sha256:"))],
        )


def codebuild_image() -> Component:
    """Return the image of the build, which AWS names by a version and keeps up to date."""
    name, _, version = IMAGE.rpartition(":")
    return Component(name=name, version=version, type=ComponentType.CONTAINER, bom_ref=IMAGE)


def bom() -> Bom:
    """Return the whole: the project, which is a build and an enclave, and what each consists of."""
    made = Bom()
    made.metadata.timestamp = NO_TIME
    application = Component(
        name="application-encryptor", type=ComponentType.APPLICATION, bom_ref="project"
    )
    made.metadata.component = application
    contents = {
        "build": [codebuild_image(), *wheels("codebuild.txt")],
        "enclave": [*bases(), *wheels("enclave.txt"), *sources()],
        "enclave-nsm": [*bases(), *wheels("enclave-nsm.txt")],
    }
    parts = []
    for name, components in contents.items():
        part = Component(name=name, type=ComponentType.APPLICATION, bom_ref=name)
        parts.append(part)
        made.components.update((part, *components))
        made.register_dependency(part, components)
    made.register_dependency(application, parts)
    names = sorted(str(component.bom_ref) for component in made.components)
    made.serial_number = uuid.uuid5(uuid.NAMESPACE_OID, "\n".join(names))
    return made


def sbom() -> str:
    """Return it as JSON."""
    output = make_outputter(bom(), OutputFormat.JSON, SchemaVersion.V1_6)
    return output.output_as_string(indent=2) + "\n"


def main() -> None:
    """Write it."""
    OUTPUT.parent.mkdir(exist_ok=True)
    OUTPUT.write_text(sbom())
    print(f"wrote {OUTPUT}: {len(bom().components)} components")


if __name__ == "__main__":
    main()
