"""Validation: cfn-lint's rules, and beside them our own."""

RULES = "generator.rules"


def validate(files: list[str], options: list[str]) -> int:
    """Lint *files* as the command line of cfn-lint would, our rules appended.

    Returns:
        cfn-lint's exit status: 0, or a bit mask of the severities found
        (2 errors, 4 warnings, 8 informational; 1 is cfn-lint's own failure).

    Source: https://github.com/aws-cloudformation/cfn-lint#exit-codes
    """
    from cfnlint.config import ConfigMixIn
    from cfnlint.exceptions import CfnLintExitException
    from cfnlint.runner import Runner

    config = ConfigMixIn([*options, "--append-rules", RULES, "--", *files])
    try:
        Runner(config).cli()
    except SystemExit as exit_:
        return int(exit_.code or 0)
    except CfnLintExitException as error:
        return int(error.exit_code)
    return 0
