"""The build: what CodeBuild runs, with everything it needs embedded readably.

No parameter is substituted into this text. Parameters arrive as environment
variables, and the shell sees them only inside double quotes.

Source: https://docs.aws.amazon.com/codebuild/latest/userguide/build-spec-ref.html
"""

from textwrap import indent

from generator.sources import source

ARTIFACT_NAME = "application_code.zip.encrypted"
ENCRYPTOR = "encryption/envelope_encryptor.py"
UPLOADER = "encryption/artifact_uploader.py"
REQUIREMENTS = "requirements/codebuild.txt"
PYTHON = "3.13"
"""Offered by the project's image, see application_encryptor.IMAGE."""

_SKELETON = """\
version: 0.2

env:
  shell: bash

phases:
  install:
    on-failure: ABORT
    runtime-versions:
      python: "{python}"
    commands:
    # Wheels only, pinned by hash, outside the source folder and beside what imports them.
    - mkdir -p -- "$HOME/encryptor"
    - |
{requirements}
    - >-
      python3 -m pip install --quiet --disable-pip-version-check --only-binary :all:
      --require-hashes --requirement "$HOME/encryptor/requirements.txt"
      --target "$HOME/encryptor"
  build:
    on-failure: ABORT
    commands:
    # encryption/envelope_encryptor.py, to the letter.
    - |
{encryptor}
    # encryption/artifact_uploader.py, to the letter.
    - |
{uploader}
    # The directory must exist in the repository and stay inside it, links resolved.
    - |
      repository=$(realpath -e -- "$CODEBUILD_SRC_DIR")
      application=$(realpath -e -- "$repository/$APPLICATION_DIRECTORY" 2>/dev/null)
      if [[ ! -d "$application" || "$application" != "$repository"/* ]]; then
        printf 'error: directory %q: not in the repository: correct %s\\n' \\
          "$APPLICATION_DIRECTORY" ApplicationCodeDirectoryName >&2
        exit 1
      fi
      # Incompressible code grows by a third; the artifact needs that much room.
      size=$(du -sbLl -- "$application" 2>/dev/null | cut -f1)
      room=$(df --output=avail --block-size=1 -- "$HOME" | tail -n1)
      if ((size * 4 / 3 > room)); then
        printf 'error: artifact of up to %d bytes: %d bytes free on the disk: %s\\n' \\
          $((size * 4 / 3)) "$room" "choose a larger compute type" >&2
        exit 1
      fi
      python3 "$HOME/encryptor/envelope_encryptor.py" encrypt \\
        -d "$application" -k "$ENCRYPTION_KEY_ARN" -o "$HOME/encryptor/{artifact}"
    - >-
      python3 "$HOME/encryptor/artifact_uploader.py"
      "$HOME/encryptor/{artifact}"
"""


def here_document(name: str, word: str) -> str:
    """Return the command that writes an embedded file, indented to its place.

    Raises:
        ValueError: a line of the file would end the here-document.
    """
    text = source(name)
    if word in text.splitlines():
        raise ValueError(f"{name}: has the line {word}, which would end its here-document")
    target = name.rpartition("/")[2] if name != REQUIREMENTS else "requirements.txt"
    command = f"cat > \"$HOME/encryptor/{target}\" <<'{word}'\n{text}{word}"
    return indent(command, " " * 6)


def buildspec() -> str:
    """Return the buildspec as YAML text."""
    return _SKELETON.format(
        python=PYTHON,
        requirements=here_document(REQUIREMENTS, "REQUIREMENTS"),
        encryptor=here_document(ENCRYPTOR, "ENVELOPE_ENCRYPTOR"),
        uploader=here_document(UPLOADER, "ARTIFACT_UPLOADER"),
        artifact=ARTIFACT_NAME,
    )
