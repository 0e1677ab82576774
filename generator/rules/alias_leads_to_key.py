"""E9108: the alias or the output for the key leads to another key."""

from collections.abc import Iterator, Mapping

from cfnlint.rules import CloudFormationLintRule, RuleMatch
from cfnlint.template import Template

from generator.nodes import mapping, references, resources
from generator.parameters import KEY_ALIAS
from generator.rules._scope import judged_keys

OUTPUT = "EnclaveKeyARN"
"""The output from which hosts and images take the key's ARN."""


class AliasLeadsToKey(CloudFormationLintRule):
    """Refuse an alias or an output for the enclave's key that names a key that is not checked."""

    id = "E9108"
    shortdesc = "the key's alias or ARN leads to another key"
    description = (
        "Artifacts are encrypted under the alias, and images are built for the ARN. If these lead"
        " to a key that is not in the template, the template's key policy protects nothing"
    )
    source_url = "https://docs.aws.amazon.com/kms/latest/developerguide/kms-alias.html"
    tags = ["resources", "kms", "enclave"]

    def match(self, cfn: Template) -> list[RuleMatch]:
        """Return a match for each alias and output that leads elsewhere."""
        template = cfn.template
        judged = set(judged_keys(template))
        written = {*mapping(template.get("Resources")), *mapping(template.get("Parameters"))}
        if not judged or any("::" in name for name in judged):  # a loop or a transform writes keys
            return []
        return [
            RuleMatch(
                list(path), f"{name} leads to a key that is not checked here: refer to {shown}"
            )
            for path, name, node in _names(template)
            if judged.isdisjoint(references(node)) and written.issuperset(references(node))
            for shown in [" or ".join(sorted(judged))]
        ]


def _names(template: Mapping[str, object]) -> Iterator[tuple[tuple[str, ...], str, object]]:
    """Yield path, name and target of each alias and output that names the enclave's key."""
    declared = mapping(mapping(template.get("Parameters")).get(KEY_ALIAS.name))
    default = declared.get("Default", KEY_ALIAS.default)
    for name, resource in resources(template, "AWS::KMS::Alias"):
        properties = mapping(resource.get("Properties"))
        alias = properties.get("AliasName")
        if alias in (default, KEY_ALIAS.default) or KEY_ALIAS.name in references(alias):
            path = ("Resources", name, "Properties", "TargetKeyId")
            yield path, f"alias {name}", properties.get("TargetKeyId")
    output = mapping(mapping(template.get("Outputs")).get(OUTPUT))
    if output:
        yield ("Outputs", OUTPUT, "Value"), f"output {OUTPUT}", output.get("Value")
