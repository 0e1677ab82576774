"""W9209: the build runs the reviewed commands, in their order, and no others."""

from cfnlint.rules import CloudFormationLintRule, RuleMatch
from cfnlint.template import Template

from generator.rules._builds import shell_commands
from generator.rules._buildspec import commands, parse
from generator.templates.buildspec import buildspec


class ReviewedCommands(CloudFormationLintRule):
    """Warn of a buildspec that runs anything but this project's own commands."""

    id = "W9209"
    shortdesc = "the build runs other commands than the reviewed ones"
    description = (
        "A command beside the reviewed ones can change the embedded encryptor before it runs, call"
        " it with another key, or send the code elsewhere. No list of bad commands is complete, so"
        " each further one needs somebody to read it"
    )
    source_url = "https://docs.aws.amazon.com/codebuild/latest/userguide/build-spec-ref.html"
    tags = ["resources", "codebuild", "enclave"]

    def match(self, cfn: Template) -> list[RuleMatch]:
        """Return a match for each buildspec that differs, with the first command that does."""
        reviewed = [str(command) for _, command in commands(parse(buildspec()))]
        matches = []
        for path, found in shell_commands(cfn.template):
            if found != reviewed:
                different = next((each for each in found if each not in reviewed), "their order")
                first = " ".join(different.split())[:72]
                message = f"the commands are not the reviewed ones: read and approve `{first}`"
                matches.append(RuleMatch(path, message))
        return matches
