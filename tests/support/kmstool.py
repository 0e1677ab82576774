"""Emulates AWS's kmstool_enclave_cli: its command lines, its failures, its log full of secrets.

KMS itself is the file `kms` next to this program: a line with the plaintext key in base64, and one
with the key's ARN. Environment variables control the rest:

    KMSTOOL_VERSION    0.2.1, 0.3.0, 0.3.1 or 0.4.0 (default): which command line it understands
    KMSTOOL_BEHAVIOUR  one word for each request, the last one repeats: answer, hang, babble,
                       crash, endless, endless-log, or one of ENDINGS

Every call appends its arguments to the file `calls`, as a list in Python, every request to KMS to
`asked`, the scheduling policy and the core file limit to `limits`.

It imports little: hundreds of tests wait for its start.
"""

import os
import resource
import sys

HERE = os.path.dirname(__file__)  # noqa: PTH120
VERSION = os.environ.get("KMSTOOL_VERSION", "0.4.0")
BEHAVIOUR = os.environ.get("KMSTOOL_BEHAVIOUR", "answer").split()
SIGSEGV = 11  # the module signal loads slowly
USAGE = "usage: kmstool_enclave_cli [options]\n\n Options: \n\n"
KMS = "Got non-200 answer from KMS: "
GIVEN_UP = "Could not decrypt ciphertext\nCould not decrypt\n"
SOCKET = (
    "Connection failed with error aws-c-io: AWS_IO_SOCKET_NOT_CONNECTED, not connected\nstack\n"
)
TRUST = "Connection failed with error aws-c-io: AWS_IO_TLS_ERROR_NEGOTIATION_FAILURE, TLS\nstack\n"
LIBRARY = "kmstool_enclave_cli: error while loading shared libraries: libnsm.so: cannot open shared"
ENDINGS = {
    "refuse": (255, f"{KMS}400\nCould not read response from KMS\n{GIVEN_UP}"),
    "fail": (255, f"{KMS}500\nCould not read response from KMS\n{GIVEN_UP}"),
    "drop": (255, f"{KMS}-1\nCould not read response from KMS\n{GIVEN_UP}"),
    "no-document": (255, GIVEN_UP),
    "outside": (134, "Fatal error condition: seed_entropy(1024) == AWS_OP_SUCCESS\nstack\n"),
    "unreachable": (134, SOCKET),
    "unreachable-crash": (139, SOCKET),
    "untrusted": (134, TRUST),
    "abort": (134, "stack\n"),
    "no-library": (127, LIBRARY),
    "other-cpu": (126, "cannot execute binary file: Exec format error"),
    "unknown": (3, "something else"),
}
CREDENTIALS = ["--aws-access-key-id", "--aws-secret-access-key", "--aws-session-token"]


def record(name: str, line: str) -> int:
    """Append *line* to the file *name*, and return its number of lines."""
    with open(f"{HERE}/{name}", "a+") as file:  # noqa: PTH123
        file.write(line + "\n")
        file.seek(0)
        return len(file.readlines())


def end(status: int, complaint: str) -> None:
    sys.stderr.write(complaint + "\n")
    sys.exit(status)


def options(words: list[str]) -> dict[str, str]:
    known = ["--region", "--proxy-port", *CREDENTIALS, "--ciphertext"]
    usage = USAGE
    if VERSION >= "0.3":
        usage += "    --key-id KEY_ID\n"
        if VERSION != "0.3.1":
            known += ["--key-id", "--encryption-algorithm"]
    if VERSION >= "0.3.1":
        if words[:1] != ["decrypt"]:
            end(1, "usage: kmstool_enclave_cli [command]")
        words = words[1:]
    given = {}
    while words:
        flag, *words = words
        if flag not in known or not words:
            end(1, "Unknown option\n" + usage)
        given[flag], *words = words
    for flag in [*CREDENTIALS, "--ciphertext"]:
        if flag not in given:
            end(1, f"{flag} must be set")
    if "--key-id" in given and "--encryption-algorithm" not in given:
        end(1, "--encryption-algorithm must be set if key-id exists")
    return given


def ask(given: dict[str, str]) -> None:
    question = record("asked", given["--ciphertext"])
    sys.stderr.write(
        f"[TRACE] Authorization: Credential={given['--aws-access-key-id']}\n"
        f"[TRACE] x-amz-security-token: {given['--aws-session-token']}\n"
    )
    sys.stderr.flush()
    with open(f"{HERE}/kms") as kms:  # noqa: PTH123
        data_key, arn = kms.read().splitlines()
    behaviour = BEHAVIOUR[min(question, len(BEHAVIOUR)) - 1]
    if behaviour == "crash":
        os.kill(os.getpid(), SIGSEGV)
    elif behaviour in ("endless", "endless-log"):
        stream = sys.stdout if behaviour == "endless" else sys.stderr
        while True:
            stream.write("A" * 65536)
    elif behaviour == "hang":
        import subprocess

        child = subprocess.Popen(["sleep", "600"])
        record("hanging", f"{os.getpid()} {child.pid}")
        child.wait()
    elif behaviour in ENDINGS or given.get("--key-id", arn) != arn:
        status, complaint = ENDINGS.get(behaviour, ENDINGS["refuse"])
        end(1 if status == 255 and VERSION < "0.3.1" else status, complaint)
    else:
        key = "bm90IGEga2V5" if behaviour == "babble" else data_key
        sys.stdout.write(f"PLAINTEXT: {key}\n" if VERSION >= "0.3.1" else key)


record("limits", f"{os.sched_getscheduler(0)} {resource.getrlimit(resource.RLIMIT_CORE)}")
record("calls", repr(sys.argv[1:]))
ask(options(sys.argv[1:]))
