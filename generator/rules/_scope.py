"""Which templates our rules judge.

Rules about keys, roles, parameters and uploads judge application-encryptor templates only, so
that nobody else's templates get findings of ours; and such a template is recognized by any of
several signs, so that removing one of them does not silence the rules.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from generator.parameters import CONTRACT_PARAMETERS, ENCLAVE_IMAGES

ATTESTATION = "kms:recipientattestation"
"""How every condition key about an attestation document begins, in lower case."""

_CONTRACT = frozenset(parameter.name for parameter in CONTRACT_PARAMETERS)
_ENOUGH_PARAMETERS = 4


def is_application_encryptor(template: Mapping[str, object]) -> bool:
    """Say whether *template*, decoded from YAML or JSON, is an application-encryptor template.

    It is if it has any of: a condition on attestation, in a policy written as text too, a parameter
    ``EnclaveImageSha384``, four or more of the seven parameters, a buildspec that runs
    ``envelope_encryptor``.
    """
    parameters = template.get("Parameters")
    names = set(parameters) if isinstance(parameters, Mapping) else set()
    if ENCLAVE_IMAGES.name in names or len(names & _CONTRACT) >= _ENOUGH_PARAMETERS:
        return True
    resources = template.get("Resources")
    return any(
        any(ATTESTATION in text.lower() for text in _texts(resource)) or _runs_encryptor(resource)
        for resource in (resources.values() if isinstance(resources, Mapping) else ())
    )


def _runs_encryptor(resource: object) -> bool:
    if not isinstance(resource, Mapping) or resource.get("Type") != "AWS::CodeBuild::Project":
        return False
    properties = resource.get("Properties")
    source = properties.get("Source") if isinstance(properties, Mapping) else None
    return isinstance(source, Mapping) and any(
        "envelope_encryptor" in text for text in _texts(source.get("BuildSpec"))
    )


def _texts(node: object) -> Iterator[str]:
    """Yield every string and key inside *node*, however deep."""
    pending = [node]
    while pending:
        found = pending.pop()
        if isinstance(found, str):
            yield found
        elif isinstance(found, Mapping):
            pending += [*found, *found.values()]
        elif isinstance(found, Sequence):
            pending += found
