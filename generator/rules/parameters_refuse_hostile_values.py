"""E9002: parameters refuse hostile values before anything is created."""

from collections.abc import Mapping

from cfnlint.rules import CloudFormationLintRule, RuleMatch
from cfnlint.template import Template

from generator.parameters import KNOWN_PARAMETERS
from generator.rules._scope import is_application_encryptor


class ParametersRefuseHostileValues(CloudFormationLintRule):
    """Refuse a documented parameter that accepts a value which is never valid."""

    id = "E9002"
    shortdesc = "a parameter accepts a hostile value"
    description = (
        "A wildcard in a policy, a path out of the repository, a shell's special characters, the"
        " zeros of a debug enclave: AllowedPattern must refuse them before anything is created"
    )
    source_url = "https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/parameters-section-structure.html"
    tags = ["parameters", "enclave"]

    def match(self, cfn: Template) -> list[RuleMatch]:
        """Return a match for each documented parameter and the first value it should refuse."""
        declared = cfn.template.get("Parameters")
        if not is_application_encryptor(cfn.template) or not isinstance(declared, Mapping):
            return []
        matches = []
        for parameter in KNOWN_PARAMETERS:
            declaration = declared.get(parameter.name)
            if not isinstance(declaration, Mapping):
                continue
            taken = [value for value in parameter.refused if _takes(declaration, value)]
            if taken:
                message = f"parameter {parameter.name} accepts {taken[0]!r}: add an AllowedPattern"
                matches.append(RuleMatch(["Parameters", parameter.name], message))
        return matches


def _takes(declaration: Mapping[str, object], value: str) -> bool:
    """Return whether CloudFormation may accept *value*; unreadable constraints do."""
    allowed = declaration.get("AllowedValues")
    if isinstance(allowed, list) and value not in map(str, allowed):
        return False
    from generator.deployments.parameters import admits

    return admits(declaration, value) is not False
