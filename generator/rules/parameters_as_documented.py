"""E9001: the parameters are the documented ones."""

from collections.abc import Iterator, Mapping
from difflib import get_close_matches

from cfnlint.rules import CloudFormationLintRule, RuleMatch
from cfnlint.template import Template

from generator.parameters import (
    TemplateParameter,
    contract_parameters,
    encryptor_parameters,
    source_of,
)
from generator.rules._scope import is_application_encryptor


class ParametersAsDocumented(CloudFormationLintRule):
    """Refuse an application-encryptor template whose parameters are not the documented ones."""

    id = "E9001"
    shortdesc = "a parameter is not as documented"
    description = (
        "Stacks and scripts refer to the seven parameters and rely on their defaults; five have"
        " none, because there is no sensible default. A source other than CodeCommit has its own"
        " parameters instead of the repository's name. Any other parameter must be optional"
    )
    source_url = "https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/parameters-section-structure.html"
    tags = ["parameters", "enclave"]

    def match(self, cfn: Template) -> list[RuleMatch]:
        """Return a match for each missing, changed or additional mandatory parameter."""
        if not is_application_encryptor(cfn.template):
            return []
        declared = cfn.template.get("Parameters")
        return list(_findings(declared if isinstance(declared, Mapping) else {}))


def _findings(declared: Mapping[str, object]) -> Iterator[RuleMatch]:
    source = source_of(declared)
    documented = {parameter.name: parameter for parameter in encryptor_parameters(source)}
    others = [name for name in declared if name not in documented]
    for parameter in contract_parameters(source):
        if parameter.name not in declared:
            similar = get_close_matches(parameter.name, others, n=1)
            found = f", but {similar[0]} is there: rename that" if similar else ": declare it"
            yield RuleMatch(["Parameters"], f"parameter {parameter.name} is missing{found}")
    for name, declaration in declared.items():
        if isinstance(declaration, Mapping):
            yield from _default_findings(name, declaration, documented.get(name))


def _default_findings(
    name: str, declaration: Mapping[str, object], documented: TemplateParameter | None
) -> Iterator[RuleMatch]:
    found = declaration.get("Default")
    if documented is None:
        if found is None:
            yield RuleMatch(
                ["Parameters", name],
                f"parameter {name} is not one of the documented ones: give it a safe default",
            )
    elif found != documented.default:
        default = "no default" if found is None else f"the default {found!r}"
        fix = f"use the documented default, {documented.default!r}"
        if documented.default is None:
            fix = "remove it, this parameter is documented without a default"
        yield RuleMatch(["Parameters", name], f"parameter {name} has {default}: {fix}")
