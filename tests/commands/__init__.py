"""The verbs of the command line that deploy, build, download and examine, run as a user does."""
