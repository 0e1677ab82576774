"""E9005: the encryptor embedded in a buildspec is the reviewed one."""

import re
from collections.abc import Iterator

from cfnlint.rules import CloudFormationLintRule, RuleMatch
from cfnlint.template import Template

from generator.nodes import mapping
from generator.rules._builds import encryptor_projects, shell_commands
from generator.rules._buildspec import stands_in_template
from generator.sources import source
from generator.templates.buildspec import ENCRYPTOR, UPLOADER, program
from generator.templates.embedding import same_program

_HERE_DOCUMENT = re.compile(r"<<'(\w+)'\n(.*?\n)\1$", re.DOTALL | re.MULTILINE)


class ReviewedEncryptor(CloudFormationLintRule):
    """Refuse a buildspec whose encryptor differs from this project's."""

    id = "E9005"
    shortdesc = "the embedded encryptor is not the reviewed one"
    description = (
        "The encryptor reads the unencrypted code. Apart from comments and docstrings it must be"
        " the program that this project reviews and tests, with the same syntax tree. Any other"
        " program could send the code somewhere else"
    )
    source_url = "https://docs.aws.amazon.com/codebuild/latest/userguide/build-spec-ref.html"
    tags = ["resources", "codebuild", "enclave"]

    def match(self, cfn: Template) -> list[RuleMatch]:
        """Return a match for each buildspec and each module that it should embed."""
        return [*_elsewhere(cfn), *_different(cfn)]


def _elsewhere(cfn: Template) -> Iterator[RuleMatch]:
    for path, properties in encryptor_projects(cfn.template):
        if not stands_in_template(mapping(properties.get("Source")).get("BuildSpec")):
            message = (
                "the buildspec is not in the template as one literal text: write it out there, so"
                " that it can be reviewed"
            )
            yield RuleMatch([*path, "Source"], message)


def _different(cfn: Template) -> Iterator[RuleMatch]:
    for path, commands in shell_commands(cfn.template):
        programs = [text for each in commands for _, text in _HERE_DOCUMENT.findall(each)]
        for name in (ENCRYPTOR, UPLOADER):
            if program(name) in programs:  # as rendered; to compare syntax trees takes longer
                continue
            if not any(same_program(text, source(name)) for text in programs):
                message = (
                    f"the program {name} is not embedded as reviewed: render the template again"
                )
                yield RuleMatch(path, message)
