"""E9205: the build runs what was reviewed, not what an index serves today."""

import re
from collections.abc import Iterator

from cfnlint.rules import CloudFormationLintRule, RuleMatch
from cfnlint.template import Template

from generator.rules._builds import shell_commands

PIP = re.compile(r"\bpip3?\s+(?:\S+\s+)*?(?:install|download)\b[^;&|]*")
OTHERS = re.compile(
    r"\b(?:npm\s+(?:install|i)|yarn\s+add|(?:yum|dnf|apt|apt-get)\s+(?:-\S+\s+)*install|"
    r"(?:curl|wget)\b[^\n]*\|\s*(?:\S*/)?(?:ba|z|)sh|(?:curl|wget)\b[^\n]*\|\s*python)\b[^;&|\n]*"
)


class InstallsArePinned(CloudFormationLintRule):
    """Refuse a build that installs anything without naming its hash."""

    id = "E9205"
    shortdesc = "the build installs something that is not pinned"
    description = (
        "What a build installs runs beside the code in the clear. pip's --require-hashes, wheels"
        " only (--only-binary :all:) installs what was reviewed, or nothing"
    )
    source_url = "https://pip.pypa.io/en/stable/topics/secure-installs/"
    tags = ["resources", "codebuild", "supply-chain", "enclave"]

    def match(self, cfn: Template) -> list[RuleMatch]:
        """Return a match for each command that installs what it does not pin."""
        return [
            RuleMatch(path, f"`{install}` is not pinned: use pip install --require-hashes")
            for path, commands in shell_commands(cfn.template)
            for command in commands
            if "<<'" not in command  # an embedded file is a rule of its own
            for install in _unpinned(command)
        ]


def _unpinned(command: str) -> Iterator[str]:
    unfolded = command.replace("\\\n", " ")
    for found in PIP.finditer(unfolded):
        if "--require-hashes" not in found[0]:
            yield " ".join(found[0].split())
    for found in OTHERS.finditer(unfolded):
        yield " ".join(found[0].split())
