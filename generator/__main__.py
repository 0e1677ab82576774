"""The command line. Each verb has a file in generator/commands/; only the one called is imported.

That keeps the start fast.
"""

import gc
import os
import sys
from errno import ENOSPC
from io import TextIOWrapper

from generator.command_line import parser
from generator.errors import GeneratorError
from generator.terminal import complain, interrupted, listen

VENV_PYTHON = ".venv/bin/python"
PASSES_ON = "validate"
"""The verb that passes everything after -- to cfn-lint."""
RARELY = (100_000, 20, 100)
"""When to look for cycles of unused objects; by default, this takes a sixth of `validate`'s time.

Nearly all that is loaded stays in use until the end.
"""


def main() -> int:
    """Run the command line; a failure is one line and status 1."""
    gc.set_threshold(*RARELY)
    arguments = sys.argv[1:]
    wanted = arguments[0] if arguments else None
    passes_on = wanted == PASSES_ON and "--" in arguments
    split = arguments.index("--") if passes_on else len(arguments)
    options = parser(wanted).parse_args(arguments[:split])
    options.passed_on = arguments[split + 1 :]
    listen()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a character that cannot be encoded is escaped
            stream.reconfigure(errors="backslashreplace")
    try:
        status = int(options.run(options))
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as head, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt as interrupt:  # a verb may add what continues on AWS
        return interrupted(interrupt)
    except ModuleNotFoundError as error:
        return complain(f"{error.name} is not installed: run make template, then use {VENV_PYTHON}")
    except OSError as error:
        advice = (
            "free some space" if error.errno == ENOSPC else "check the path and its permissions"
        )
        return complain(f"{error.filename or 'output'}: {error.strerror}: {advice}")
    except GeneratorError as error:
        return complain(error)
    return status


if __name__ == "__main__":
    sys.exit(main())
