"""W9101: the key's own account decrypts without a bound image."""

from cfnlint.rules import CloudFormationLintRule, RuleMatch
from cfnlint.template import Template

from generator.access.answers import Answer
from generator.nodes import mapping
from generator.policy.request import Leads
from generator.rules._answers import allowed, findings, owner_itself

FIX = "make the Deny name everybody: Principal '*'"
FIX_REPLICA = "a replica decrypts under a policy of its own: remove MultiRegion"


class OwnerDecryptsUnattested(CloudFormationLintRule):
    """Warn about key policies under which the key's own account can decrypt."""

    id = "W9101"
    shortdesc = "the key's own account decrypts without a bound image"
    description = (
        "If the Deny names nobody but the host, then the owner's administrators, and every role"
        " that they manage, can decrypt, and only CloudTrail records it. The same holds for a"
        " multi-Region key: a replica in another region has a key policy of its own,"
        " without this Deny"
    )
    source_url = "https://docs.aws.amazon.com/kms/latest/developerguide/conditions-attestation.html"
    tags = ["resources", "kms", "enclave"]

    def match(self, cfn: Template) -> list[RuleMatch]:
        """Return a match for each statement that allows it."""
        found = allowed(cfn, Leads.TO_PLAINTEXT)
        replicas = (each for each in allowed(cfn, Leads.TO_CONTROL) if _replicates(cfn, each))
        return [
            *findings((answer for answer in found if owner_itself(answer)), FIX),
            *findings(filter(owner_itself, replicas), FIX_REPLICA),
        ]


def _replicates(cfn: Template, answer: Answer) -> bool:
    """Return whether the answer is about replicating a key that is, or may be, multi-Region."""
    key = mapping(mapping(cfn.template.get("Resources")).get(answer.key))
    multi_region = mapping(key.get("Properties")).get("MultiRegion", False)
    return answer.action == "kms:ReplicateKey" and str(multi_region).lower() != "false"
