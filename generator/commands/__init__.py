"""The verbs of the command line, one per file, in the order in which the help lists them.

A verb's module has a docstring (its first line is the summary, all of it is the description),
``EXAMPLES`` for the end of its help, ``add_arguments(parser)`` and ``run(options)``, which
returns the exit status. It imports what it needs where it needs it, so that the command line
starts in milliseconds.
"""

VERBS = (
    "render",
    "validate",
    "explain",
    "measure",
    "deploy",
    "build",
    "doctor",
    "inspect",
    "receive",
    "audit",
)
