"""W9105: an Allow that requires an attestation for actions that never have one."""

from collections.abc import Iterator, Mapping

from cfnlint.rules import CloudFormationLintRule, RuleMatch
from cfnlint.template import Template

from generator.nodes import Path, mapping, properties, walk
from generator.policy.operators import matches
from generator.policy.request import ACTIONS, REGISTER
from generator.rules._scope import judged_keys

NEGATED = ("StringNot", "ArnNot")


class AttestationIsPossible(CloudFormationLintRule):
    """Warn about a permission that nobody can ever use."""

    id = "W9105"
    shortdesc = "an Allow requires an attestation that its actions never have"
    description = (
        "KMS verifies an attestation only for Decrypt, DeriveSharedSecret, GenerateDataKey,"
        " GenerateDataKeyPair and GenerateRandom. For every other action the condition keys are"
        " absent, so an Allow that requires a value of them never applies"
    )
    source_url = "https://docs.aws.amazon.com/kms/latest/developerguide/conditions-attestation.html"
    tags = ["resources", "kms", "enclave"]

    def match(self, cfn: Template) -> list[RuleMatch]:
        """Return a match for each such statement of a judged key's policy."""
        return [
            RuleMatch(
                [*path, "Action"],
                "none of these actions has an attestation, so this Allow never applies:"
                " remove the condition, or the statement",
            )
            for name in judged_keys(cfn.template)
            for path, statement in _statements(cfn.template, name)
            if statement.get("Effect") == "Allow"
            and _demands_attestation(statement)
            and not _may_be_attested(cfn.template, statement.get("Action"))
        ]


def _statements(template: dict[str, object], name: str) -> Iterator[tuple[Path, dict[str, object]]]:
    key = mapping(template.get("Resources")).get(name)
    place: Path = ("Resources", name, "Properties", "KeyPolicy")
    for path, node in walk(properties(key).get("KeyPolicy"), place):
        if isinstance(node, dict) and "Effect" in node and "Action" in node:
            yield path, node


def _demands_attestation(statement: dict[str, object]) -> bool:
    return any(
        REGISTER.fullmatch(str(key).lower())
        for operator, keys in mapping(statement.get("Condition")).items()
        if not str(operator).startswith(NEGATED)
        and "IfExists" not in str(operator)
        and operator != "Null"
        for key in mapping(keys)
    )


def _may_be_attested(template: Mapping[str, object], actions: object) -> bool:
    from generator.deployments.comparisons import is_known, known
    from generator.deployments.symbolic import Template as Symbolic
    from generator.deployments.symbolic import Written

    attestable = [name for name, facts in ACTIONS.items() if facts.attestable]
    attestable.append("kms:GenerateRandom")
    for _, item, _ in Symbolic(template).items(actions):
        if not isinstance(item, Written) or not is_known(item.text):
            return True
        pattern = known(item.text)
        if any(matches(pattern, name, wildcards=True, ignore_case=True) for name in attestable):
            return True
    return False
