"""Validation with cfn-lint's rules and this project's.

Templates are checked by all rules. A bare key policy and the keys of a Terraform plan are checked
only by the rules about keys: they are not templates, but their policies mean the same.
"""

from __future__ import annotations

import glob
import io
import os
from contextlib import nullcontext, redirect_stderr, redirect_stdout
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from cfnlint.config import ConfigMixIn
from cfnlint.decode import decode_str
from cfnlint.exceptions import CfnLintExitException, ConfigFileError
from cfnlint.rules import Rules
from cfnlint.runner.cli import Runner
from cfnlint.runner.template import run_template_by_data
from cfnlint.runner.template.runner import run_template_by_file_path

from generator.errors import GeneratorError
from generator.nodes import KMS_KEYS, resources
from generator.reading import bare_policy, documents
from generator.reading.documents import Document, Kind
from generator.rules import _scope
from generator.sarif import sarif
from generator.silenced import malformed, silenced
from generator.terminal import complain, escaped, warn

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from cfnlint.match import Match as AnyMatch

RULES = "generator.rules"
KEY_RULES = ("E91", "W91")
"""Prefixes of the rules about keys: who decrypts, and who controls."""
UNKNOWN = "\N{REPLACEMENT CHARACTER}"
"""Represents an unknown value in resolved text, see ``generator.policy.operators``."""
UNKNOWN_SHOWN = "(unknown)"
USAGE_ERROR = 2
UNREAD = 2
"""The status if cfn-lint fails on a file: that of a file that does not parse."""
SILENCED = 4
"""The status if a template turns off rules of ours: that of a warning."""


def validate(files: list[str], options: list[str]) -> int:
    """Lint *files* as `outcome` does, and return the status alone."""
    return outcome(files, options).status


class Outcome(NamedTuple):
    """How a run of cfn-lint ended.

    ``status`` is its exit status. ``clean`` says whether every file was judged, by every rule, and
    nothing was found, which options can hide from the status. ``unjudged`` names the keys, by their
    file, to which the rules about keys do not apply.
    """

    status: int
    clean: bool
    unjudged: Mapping[str, Sequence[str]] = MappingProxyType({})


def outcome(files: list[str], options: list[str], owner: str | None = None) -> Outcome:
    """Lint *files* as cfn-lint's command line would, with this project's rules appended.

    Args:
        files: names of templates, key policies or Terraform plans; ``-`` is standard input. Each
            name is taken literally, although cfn-lint would expand patterns.
        options: options of cfn-lint.
        owner: the account that owns the keys of the key policies; by default the one that most
            likely does.

    Returns:
        cfn-lint's exit status: 0, or a bit mask of the severities found (2 errors, 4 warnings, 8
        informational; 1 is cfn-lint's own failure), with 2 for a file on which cfn-lint fails, and
        4 for one whose Metadata turns off rules of ours; and whether nothing was found.

    Raises:
        DocumentError: a file cannot be read, or not safely; then no file is checked.
        GeneratorError: there is an *owner*, but a file is not a key policy.

    Source: https://github.com/aws-cloudformation/cfn-lint#exit-codes
    """
    found = [documents.load(name, strict=False) for name in files]
    for document in found if owner else ():
        if document.kind is not Kind.POLICY:
            raise GeneratorError(f"{document.name}: is not a key policy: leave out --owner")
    for document in found:
        if document.kind is Kind.POLICY:
            _check_unambiguous(document)
    try:
        config = _config(files, options)
    except SystemExit as exit_:
        return Outcome(int(exit_.code or 0), clean=False)
    runner = _Runner(config, dict(zip(files, found, strict=True)), owner)
    try:
        runner.cli()
    except SystemExit as exit_:
        clean = runner.judged and not runner.matches and not runner.unread
        status = int(exit_.code or 0) | (UNREAD if runner.unread else 0)
        warnings_count = config.non_zero_exit_code not in ("error", "none")
        status |= SILENCED if runner.silenced and warnings_count else 0
        return Outcome(status, clean, _unjudged(found) if clean else {})
    except RecursionError as error:
        raise GeneratorError(
            f"{', '.join(files)}: is nested too deeply for cfn-lint: flatten it"
        ) from error
    return Outcome(0, clean=False)


def _check_unambiguous(document: Document) -> None:
    """Refuse a key policy with the same key twice; cfn-lint reports this only of templates.

    Raises:
        GeneratorError: it has.
    """
    try:
        documents.decode(document.text)
    except ValueError as error:
        raise GeneratorError(f"{document.name}: {error}") from error


def _unjudged(found: Sequence[Document]) -> dict[str, list[str]]:
    """Return the keys of templates and plans that the rules about keys leave out, by file."""
    keys = {}
    for document in found:
        if document.kind is not Kind.POLICY:
            judged = _scope.judged_keys(document.content)
            keys[document.name] = [
                str(name)
                for name, _ in resources(document.content, *KMS_KEYS)
                if name not in judged
            ]
    return {name: left for name, left in keys.items() if left}


def _config(files: Sequence[str], options: list[str]) -> ConfigMixIn:
    """Return cfn-lint's configuration, reporting its usage errors in one line.

    Raises:
        SystemExit: an option is wrong, or prints something and exits.
    """
    # Without a file cfn-lint would read standard input, which has been read already.
    named = [
        os.devnull if name == documents.STANDARD_INPUT else glob.escape(name) for name in files
    ]
    printed = io.StringIO()
    try:
        with redirect_stderr(printed), redirect_stdout(printed):
            config = ConfigMixIn([*options, "--append-rules", RULES, "--", *named])
    except SystemExit as exit_:
        if exit_.code:
            reason = printed.getvalue().rpartition("error: ")[2]
            raise SystemExit(complain(f"cfn-lint: {reason}", USAGE_ERROR)) from exit_
        print(printed.getvalue(), end="")  # noqa: T201 - cfn-lint's help or version
        raise
    except (ConfigFileError, ValueError) as error:
        raise GeneratorError(f".cfnlintrc: {error}") from error
    return config


class _Runner(Runner):  # type: ignore[misc] # cfn-lint carries no types
    """Runs cfn-lint's rules and this project's over documents that have been read already."""

    def __init__(
        self, config: ConfigMixIn, found: Mapping[str, Document], owner: str | None
    ) -> None:
        self.judged = False
        self.matches = 0
        self.unread = False
        self.silenced = False
        self._documents = found
        self._owner = owner
        super().__init__(config)

    def run(self) -> Iterator[AnyMatch]:
        """Yield what the rules find in each document, in the order of their names."""
        try:
            for match in self._run():
                self.matches += 1
                # A name in a template must not control the user's terminal.
                shown = escaped(match.message.replace(UNKNOWN, UNKNOWN_SHOWN))
                object.__setattr__(match, "message", shown)
                yield match
        except CfnLintExitException as error:  # its first sentence says what failed
            raise SystemExit(complain(str(error).partition(". ")[0], error.exit_code)) from error
        self.silenced = self._say_what_is_silenced()
        self.judged = not self.silenced

    def _say_what_is_silenced(self) -> bool:
        """Warn of rules of ours that a template itself turns off; return whether there are any.

        Whoever wrote it would decide what its auditor reads.
        """
        found = [
            f"{document.name}: its own Metadata turns off {rules}"
            for document in self._documents.values()
            if (rules := silenced(document.content, self.rules.data))
        ]
        for line in found:
            warn(line)
        return bool(found)

    def _cli_output(self, matches: list[AnyMatch]) -> None:
        if self.config.format != "sarif":
            super()._cli_output(matches)
            return
        matches.sort(key=lambda each: (each.filename, each.linenumber, each.rule.id))
        output = sarif(matches, self.rules, self.config)
        if self.config.output_file:
            Path(self.config.output_file).write_text(output, encoding="utf-8")
        else:
            print(output)  # noqa: T201 - the result
        self._exit(matches)

    def _run(self) -> Iterator[AnyMatch]:
        if self.config.deployment_files or self.config.parameter_files:
            yield from self._guarded(super().run(), ", ".join(self._documents))
            return
        chosen = set(self.config.templates)  # without what its configuration ignores
        for name, document in sorted(self._documents.items()):
            if name == documents.STANDARD_INPUT:
                found = _renamed(self._judge(document, None), document.name)
                yield from self._guarded(found, document.name)
            elif str(Path(name)) in chosen:
                yield from self._guarded(self._judge(document, name), document.name)

    def _guarded(self, found: Iterator[AnyMatch], name: str) -> Iterator[AnyMatch]:
        """Yield what is *found*; if cfn-lint fails, say so in one line instead of a traceback."""
        try:
            yield from found
        except (CfnLintExitException, GeneratorError, RecursionError):
            raise
        except Exception as error:  # noqa: BLE001 - it expects shapes that a file need not have
            self.unread = True
            complain(
                f"{name}: cfn-lint cannot read it ({type(error).__name__}: {error}): check that"
                " each section, such as Parameters and Resources, is as"
                " CloudFormation documents it"
            )

    def _judge(self, document: Document, file: str | None) -> Iterator[AnyMatch]:
        # Settings from the previous template's Metadata must not apply to this one.
        self.config.set_template_args({})
        if place := malformed(document.content):
            raise GeneratorError(
                f"{document.name}: {place} has the wrong type for cfn-lint: correct it"
            )
        if document.kind in (Kind.POLICY, Kind.PLAN):
            yield from _renamed(self._judge_keys(document), document.name)
        else:
            is_read = document.kind is Kind.TEMPLATE
            with _scope.as_read(document.content) if is_read else nullcontext():
                yield from list(self._judge_template(document, file))

    def _judge_template(self, document: Document, file: str | None) -> Iterator[AnyMatch]:
        if file is not None:
            yield from run_template_by_file_path(
                file, self.config, self.rules, self.config.ignore_bad_template
            )
        else:
            template, faults = decode_str(document.text)
            yield from faults or run_template_by_data(template, self.config, self.rules)

    def _judge_keys(self, document: Document) -> Iterator[AnyMatch]:
        rules = Rules(
            {name: rule for name, rule in self.rules.data.items() if name.startswith(KEY_RULES)}
        )
        if document.kind is Kind.PLAN:
            with _scope.as_read(document.content):
                yield from list(run_template_by_data(dict(document.content), self.config, rules))
            return
        owner = self._owner or bare_policy.likely_owner(document.content)
        read = bare_policy.as_template(document.content, owner)
        template = _as_template(document, owner)
        with _scope.every_key_judged(), _scope.as_read(read):
            yield from list(run_template_by_data(template, self.config, rules))


def _as_template(document: Document, owner: str | None) -> dict[str, Any]:
    """Return a template with one key that has the policy, keeping line numbers if possible."""
    template, _ = decode_str(document.text)
    in_place = isinstance(template, dict) and documents.is_policy(template)
    policy = template if in_place else document.content
    return bare_policy.as_template(policy, owner)


def _renamed(matches: Iterator[AnyMatch], name: str) -> Iterator[AnyMatch]:
    for match in matches:
        object.__setattr__(match, "filename", name)
        yield match
