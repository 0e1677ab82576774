"""E9106: an outsider controls the build."""

from cfnlint.rules import CloudFormationLintRule, RuleMatch
from cfnlint.template import Template

from generator.rules._scope import has_enclave_images, is_application_encryptor


class OutsiderControlsBuild(CloudFormationLintRule):
    """Refuse roles through which an outsider reaches the code before it is encrypted."""

    id = "E9106"
    shortdesc = "an outsider controls the build"
    description = (
        "A role that outsiders may assume and that may start builds, read the repository or grant"
        " permissions gives access to the unencrypted code, whatever the key's policy says"
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
                f"outsiders may assume role {role}, which may call {', '.join(actions)}:"
                " trust only the stack's own account, or remove these permissions",
            )
            for role, actions in ways_to_the_build(cfn.template).items()
            if actions
        ]
