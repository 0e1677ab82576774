"""E9005: the encryptor in a buildspec is the one that was reviewed."""

from cfnlint.rules import CloudFormationLintRule, RuleMatch
from cfnlint.template import Template

from generator.buildspec import ENCRYPTOR, UPLOADER
from generator.rules._buildspec import buildspecs, commands, parse
from generator.rules._scope import is_application_encryptor
from generator.sources import source


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
        if not is_application_encryptor(cfn.template):
            return []
        return [
            RuleMatch(path, f"{name} is not embedded to the letter: render the template again")
            for path, text in buildspecs(cfn.template)
            for name in (ENCRYPTOR, UPLOADER)
            if not _embeds(text, source(name))
        ]


def _embeds(text: str, module: str) -> bool:
    return any(f"\n{module}" in str(command) for _, command in commands(parse(text)))
