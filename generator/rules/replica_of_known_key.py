"""W9106: a replica of a key whose policy is not in the template."""

from cfnlint.rules import CloudFormationLintRule, RuleMatch
from cfnlint.template import Template

from generator.nodes import KMS_KEYS, mapping, references, resources
from generator.rules._scope import judged_keys


class ReplicaOfKnownKey(CloudFormationLintRule):
    """Warn about a replica whose primary key is not in the template."""

    id = "W9106"
    shortdesc = "the primary key of a replica is not in the template"
    description = (
        "A replica and its primary key decrypt the same ciphertexts, each under its own policy."
        " The policy of a primary key in another region is not known from this template"
    )
    source_url = (
        "https://docs.aws.amazon.com/kms/latest/developerguide/multi-region-keys-overview.html"
    )
    tags = ["resources", "kms", "enclave"]

    def match(self, cfn: Template) -> list[RuleMatch]:
        """Return a match for each such replica."""
        keys = {name for name, _ in resources(cfn.template, *KMS_KEYS)}
        judged = set(judged_keys(cfn.template))
        return [
            RuleMatch(
                ["Resources", name, "Properties", "PrimaryKeyArn"],
                f"replica {name}: its primary key decrypts the same ciphertexts, and that key's"
                " policy is not in this template: check it with explain --key",
            )
            for name, replica in resources(cfn.template, "AWS::KMS::ReplicaKey")
            if name in judged
            and keys.isdisjoint(references(mapping(replica.get("Properties")).get("PrimaryKeyArn")))
        ]
