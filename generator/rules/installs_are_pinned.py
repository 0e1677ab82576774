"""E9205: the build installs what was reviewed, not what a package index serves today."""

import re
from collections.abc import Iterator

from cfnlint.rules import CloudFormationLintRule, RuleMatch
from cfnlint.template import Template

from generator.rules._builds import shell_commands

PIP = re.compile(r"(?:\bpip[\d.]*|-m\s*pip)\s+(?:\S+\s+)*?(?:install|download|wheel)\b.*")
OTHERS = re.compile(
    r"\b(?:(?:npm|pnpm)\s+(?:install|i|ci|add|dlx)|yarn\s+(?:add|install)|npx|pipx|uvx|easy_install|"
    r"uv\s+(?:add|sync|tool|run)|(?:poetry|conda|mamba|gem|cargo|go|snap|brew)\s+(?:install|add|get)|"
    r"(?:micro)?(?:yum|dnf|apt|apt-get|apk|zypper)\s+(?:-\S+\s+)*(?:install|add)|(?:rpm|dpkg)\s+-\w*[iU]|"
    r"docker\s+(?:run|pull)|git\s+clone|curl|wget|urlopen|aws\s+s3\s+(?:cp|sync)\s+s3:)\b.*"
)
"""Commands that install code without a hash: package managers, and downloads of any kind."""
HEREDOC = re.compile(r"<<-?\s*'(\w+)'.*?\n.*?^\1$", re.DOTALL | re.MULTILINE)


class InstallsArePinned(CloudFormationLintRule):
    """Refuse a build that installs anything without a hash."""

    id = "E9205"
    shortdesc = "the build installs something that is not pinned"
    description = (
        "What a build installs can read the unencrypted code. pip with --require-hashes and"
        " --only-binary :all: installs exactly what was reviewed, or nothing"
    )
    source_url = "https://pip.pypa.io/en/stable/topics/secure-installs/"
    tags = ["resources", "codebuild", "supply-chain", "enclave"]

    def match(self, cfn: Template) -> list[RuleMatch]:
        """Return a match for each command that installs what it does not pin."""
        return [
            RuleMatch(
                path,
                f"`{install}` is not pinned: use pip install --require-hashes --only-binary :all:",
            )
            for path, commands in shell_commands(cfn.template)
            for command in commands
            for install in _unpinned(command)
        ]


def _unpinned(command: str) -> Iterator[str]:
    shell = HEREDOC.sub("", command.replace("\\\n", " "))  # an embedded file is a rule of its own
    for part in re.split(r"\n|;|&&|\|\|", re.sub(r"(?m)(?:^|\s)#.*$", "", shell)):
        for pattern in (PIP, OTHERS):
            for found in pattern.finditer(part):
                hashed = pattern is PIP and {"--require-hashes", ":all:"} <= set(found[0].split())
                if not hashed:
                    yield " ".join(found[0].split())
