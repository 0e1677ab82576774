"""E9005: the encryptor in a buildspec is the one that was reviewed."""

from collections.abc import Iterator

from cfnlint.rules import CloudFormationLintRule, RuleMatch
from cfnlint.template import Template

from generator.rules._builds import encryptor_projects, shell_commands
from generator.rules._buildspec import stands_in_template
from generator.sources import source
from generator.template_values import mapping
from generator.templates.buildspec import ENCRYPTOR, UPLOADER


class ReviewedEncryptor(CloudFormationLintRule):
    """Refuse a buildspec whose encryptor differs from this project's."""

    id = "E9005"
    shortdesc = "the embedded encryptor is not the reviewed one"
    description = (
        "The encryptor sees the code in the clear. Embedded to the letter, it is the module that"
        " this project reviews and tests; anything else could send the code elsewhere"
    )
    source_url = "https://docs.aws.amazon.com/codebuild/latest/userguide/build-spec-ref.html"
    tags = ["resources", "codebuild", "enclave"]

    def match(self, cfn: Template) -> list[RuleMatch]:
        """Return a match for each buildspec and each module that it should embed."""
        return [*_elsewhere(cfn), *_different(cfn)]


def _elsewhere(cfn: Template) -> Iterator[RuleMatch]:
    for path, properties in encryptor_projects(cfn.template):
        if not stands_in_template(mapping(properties.get("Source")).get("BuildSpec")):
            message = "the buildspec is not in the template, so nobody reviews it: write it there"
            yield RuleMatch([*path, "Source"], message)


def _different(cfn: Template) -> Iterator[RuleMatch]:
    for path, commands in shell_commands(cfn.template):
        for name in (ENCRYPTOR, UPLOADER):
            if not any(f"\n{source(name)}" in command for command in commands):
                message = f"{name} is not embedded to the letter: render the template again"
                yield RuleMatch(path, message)
