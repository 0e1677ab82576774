"""The build: what CodeBuild runs, with everything that it needs embedded in readable form.

No parameter is substituted into this text. Parameters arrive as environment variables, and the
shell sees them only inside double quotes. What comes from the repository is data: no program
starts in the source folder, and each name from there is exactly one quoted argument.

Source: https://docs.aws.amazon.com/codebuild/latest/userguide/build-spec-ref.html
"""

from functools import cache
from textwrap import indent

from generator.sources import source
from generator.templates.embedding import embedded

END = "END"
"""The line that ends each here-document."""

VARIABLES = (
    *("APPLICATION_DIRECTORY", "ENCRYPTION_KEY_ARN", "EXTERNAL_BUCKET_NAME"),
    *("EXTERNAL_BUCKET_PATH", "EXTERNAL_BUCKET_KEY_ARN", "EXTERNAL_BUCKET_ACCOUNT"),
)
"""The environment variables that the project sets for the build."""

ARTIFACT_NAME = "application_code.zip.encrypted"
ENCRYPTOR = "encryption/envelope_encryptor.py"
UPLOADER = "encryption/artifact_uploader.py"
REQUIREMENTS = "requirements/codebuild.txt"
PYTHON = "3.13"
"""Offered by the project's image, see application_encryptor.IMAGE."""

# One column per level: every column counts against CodeBuild's limit, see generator/limits.py.
# The build leaves the source folder at once, for one on the same disk: no other has guaranteed
# space. Git stores no empty directory, and CodeBuild fetches no submodule: an empty one was meant
# to be a submodule.
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
  # The repository is data, never code of the build.
  - folder=$(mktemp -d -- "$CODEBUILD_SRC_DIR/../encryptor.XXXXXXXX") && cd -- "$folder"
  - |
{requirements}
  - >-
   python3 -I -m pip install -qq --only-binary :all: --require-hashes
   -r requirements.txt --target .
 build:
  on-failure: ABORT
  commands:
  # Without its comments: {encryptor_source}
  - |
{encryptor}
  # Likewise: {uploader_source}
  - |
{uploader}
  - |
   fail() {{ LC_ALL=C; printf 'error: %q: %s\\n' "$@" >&2; exit 1; }}
   repository=$(realpath -e -- "$CODEBUILD_SRC_DIR") || exit
   named="$repository/$APPLICATION_DIRECTORY"
   application=$(realpath -e -- "$named" 2>/dev/null)
   [[ -d "$named" && "$application" -ef "$named" && "$application" == "$repository"/* ]] ||
    fail "$APPLICATION_DIRECTORY" "not in the repository: correct ApplicationCodeDirectoryName"
   empty=$(find "$application" -name .git -prune -o -type d -empty -print -quit)
   [[ -z "$empty" ]] || fail "$empty" "an empty submodule: copy its files into the repository"
   python3 envelope_encryptor.py encrypt -v -d "$application" -k "$ENCRYPTION_KEY_ARN"
  - python3 artifact_uploader.py {artifact}
"""


def here_document(name: str, text: str) -> str:
    """Return the command that writes *text* to the file *name*, indented for the buildspec.

    Raises:
        ValueError: a line of the text would end the here-document.
    """
    if END in text.splitlines():
        raise ValueError(f"{name}: has the line {END}, which would end its here-document")
    return indent(f"cat > {name} <<'{END}'\n{text}{END}", " " * 3)


@cache
def program(name: str) -> str:
    """Return the program *name* of this project, such as ENCRYPTOR, as the build has it."""
    return embedded(source(name))


def pins() -> str:
    """Return the requirements that the build installs, without comments."""
    lines = source(REQUIREMENTS).splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith("#"))


def buildspec() -> str:
    """Return the buildspec as YAML text."""
    return _SKELETON.format(
        python=PYTHON,
        requirements=here_document("requirements.txt", pins()),
        encryptor_source=ENCRYPTOR,
        uploader_source=UPLOADER,
        encryptor=here_document("envelope_encryptor.py", program(ENCRYPTOR)),
        uploader=here_document("artifact_uploader.py", program(UPLOADER)),
        artifact=ARTIFACT_NAME,
    )
