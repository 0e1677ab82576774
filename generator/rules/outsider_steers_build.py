"""E9106: an outsider steers the build."""

from cfnlint.rules import CloudFormationLintRule, RuleMatch
from cfnlint.template import Template

from generator.rules._scope import has_enclave_images, is_application_encryptor


class OutsiderSteersBuild(CloudFormationLintRule):
    """Refuse roles by which an outsider reaches the code before it is encrypted."""

    id = "E9106"
    shortdesc = "an outsider steers the build"
    description = (
        "A role that outsiders may assume and that starts builds, reads the repository or gives"
        " permissions reaches the code in the clear, whatever the key's policy says"
    )
    source_url = (
        "https://docs.aws.amazon.com/codebuild/latest/userguide/security_iam_service-with-iam.html"
    )
    tags = ["resources", "iam", "codebuild", "enclave"]

    def match(self, cfn: Template) -> list[RuleMatch]:
        """Return a match for each such role."""
        if not (is_application_encryptor(cfn.template) or has_enclave_images(cfn.template)):
            return []
        from generator.access.roles import ways_to_the_build

        return [
            RuleMatch(
                ["Resources", role],
                f"outsiders may assume role {role}, and it may call {', '.join(actions)}:"
                " trust the stack's own account alone, or allow less",
            )
            for role, actions in ways_to_the_build(cfn.template).items()
            if actions
        ]
