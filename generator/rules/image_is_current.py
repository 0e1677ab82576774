"""W9206: a build image that AWS still mends."""

import re

from cfnlint.rules import CloudFormationLintRule, RuleMatch
from cfnlint.template import Template

from generator.rules._builds import encryptor_projects
from generator.template_values import mapping

DEPRECATED = re.compile(
    r"aws/codebuild/(amazonlinux2-.*|amazonlinux-x86_64-standard:[1-4]\.0|"
    r"amazonlinux-aarch64-standard:[12]\.0|standard:[1-6]\.0|ubuntu-base:.*|"
    r"(python|nodejs|java|golang|ruby|php|docker|dot-net|android-java)[-:].*)"
)
"""CodeBuild's images on Amazon Linux 2, on Ubuntu before 22.04, and for one language.

Source: https://docs.aws.amazon.com/codebuild/latest/userguide/build-env-ref-available.html
"""


class ImageIsCurrent(CloudFormationLintRule):
    """Warn of a build image that gets no fixes any more."""

    id = "W9206"
    shortdesc = "the build's image is deprecated"
    description = (
        "A deprecated image gets no security fixes, and its Python may be too old for the encryptor"
    )
    source_url = (
        "https://docs.aws.amazon.com/codebuild/latest/userguide/build-env-ref-available.html"
    )
    tags = ["resources", "codebuild", "enclave"]

    def match(self, cfn: Template) -> list[RuleMatch]:
        """Return a match for each project with such an image."""
        return [
            RuleMatch(
                [*path, "Environment", "Image"],
                f"image {image} is deprecated: use amazonlinux-x86_64-standard:6.0",
            )
            for path, properties in encryptor_projects(cfn.template)
            if DEPRECATED.fullmatch(
                image := str(mapping(properties.get("Environment")).get("Image"))
            )
        ]
