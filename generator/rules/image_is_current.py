"""W9206: a build image that AWS still maintains."""

import re

from cfnlint.rules import CloudFormationLintRule, RuleMatch
from cfnlint.template import Template

from generator.nodes import mapping
from generator.rules._builds import encryptor_projects, shown

CURRENT = re.compile(
    r"aws/codebuild/(amazonlinux-x86_64-standard:([5-9]|\d\d)\.0|"
    r"amazonlinux-aarch64-standard:([3-9]|\d\d)\.0|standard:([7-9]|\d\d)\.0)"
)
"""CodeBuild's images on Amazon Linux 2023, and on Ubuntu from 22.04.

Source: https://docs.aws.amazon.com/codebuild/latest/userguide/build-env-ref-available.html
"""

RECOMMENDED = "amazonlinux-x86_64-standard:6.0"


class ImageIsCurrent(CloudFormationLintRule):
    """Warn about a build image that is no longer maintained, or is not from CodeBuild."""

    id = "W9206"
    shortdesc = "the build's image is deprecated, or not CodeBuild's"
    description = (
        "A deprecated image gets no security fixes, and its Python may be too old for the"
        " encryptor; an image from somebody else can read the code"
    )
    source_url = (
        "https://docs.aws.amazon.com/codebuild/latest/userguide/build-env-ref-available.html"
    )
    tags = ["resources", "codebuild", "enclave"]

    def match(self, cfn: Template) -> list[RuleMatch]:
        """Return a match for each project with such an image."""
        projects = list(encryptor_projects(cfn.template))
        if not projects:
            return []
        from generator.deployments.possible_texts import possible_texts

        found = {
            (tuple(path), image)
            for path, properties in projects
            for environment in [mapping(properties.get("Environment"))]
            for image in possible_texts(cfn.template, environment.get("Image"))
        }
        return [
            RuleMatch(
                [*path, "Environment"],
                f"image {shown(image)} is deprecated, or not CodeBuild's: use {RECOMMENDED}",
            )
            for path, image in sorted(found)
            if not CURRENT.fullmatch(image)
        ]
