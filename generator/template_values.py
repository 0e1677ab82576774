"""What the values of a template may be once it is deployed.

A policy in a template is a function of parameters and conditions. ``deployments`` enumerates
stacks that stand for all that the template allows, and each ``Deployment`` resolves intrinsic
functions to the JSON that AWS would receive. What stays open before deployment (imports,
transforms, attributes of resources, values of SSM parameters) becomes UNKNOWN text, which the
evaluator of policies treats as a doubt.

Why a few values stand for all that a parameter allows: evaluating a policy, and a condition of
CloudFormation, only ever *compares* text. So a value counts by what it equals among the things
compared with it, and these are finitely many: the literals of the template's conditions, the keys
of its mappings, accounts and principals that ask, the digests that an enclave may attest (zeros
included), empty text, and "something else". ``PROBES`` holds one of each. Of a
list each item is tried alone: a policy asks whether one of them matches. A value is tried only if
the parameter's constraints admit it.

Where this does not suffice, the value UNKNOWN is tried as well, and nothing can be proved that
depends on it: a parameter might contain wildcards, of which there is no end; or it is part of an
action; or its constraints cannot be read, or admit nothing that stands for "something else". A
condition is a doubt if it compares composed text, or the account's number or the stack's name.

Source: https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/ (intrinsic functions,
parameters, conditions, pseudo parameters).
"""

from __future__ import annotations

import functools
import itertools
import json
import math
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import regex

from generator.policy.operators import UNKNOWN, Doubt, Truth, all_, any_, listed, not_

OWNER = "100000000001"
"""The account of the stack, as this module imagines it."""
HOST = "200000000002"
"""An account that a parameter names."""
IMAGE, ZEROS = "1a" * 48, "0" * 96
"""PCR0 of an image that a parameter names, and of every enclave in debug mode."""

NAMES = ("", "*", "name")
PROBES = (
    *(*NAMES, HOST, OWNER),
    *(f"arn:aws:iam::{OWNER}:root", f"arn:aws:iam::{HOST}:root"),
    *(IMAGE, IMAGE.upper(), ZEROS, f"{IMAGE[:-1]}*", "?" * 96),
    *("kms:Decrypt", "kms:*"),
)
"""What a parameter may be; ``NAMES`` are enough for one that only continues other text."""
DEPLOYMENTS_MAX = 256
"""Above it parameters are varied one at a time, and all of them left open once."""

PATTERN_SECONDS = 0.5
"""What a usual pattern needs is a few microseconds."""

_FIXED = {"AWS::AccountId": OWNER, "AWS::StackName": "stack", "AWS::URLSuffix": "amazonaws.com"}
_USUAL = {"AWS::Partition": "aws", "AWS::Region": "eu-west-1"}
_OTHER = {"AWS::Partition": "aws-other", "AWS::Region": "other-region-1"}
_SHAPES = {"AWS::Partition": r"aws(-[a-z]+)*", "AWS::Region": r"[a-z]+(-[a-z]+)+-\d+"}
_NO_VALUE = object()

Value: TypeAlias = str | list[str]
Path: TypeAlias = tuple[str | int, ...]


def parsed(policy: object) -> object:
    """Read a policy that may be written as text; UNKNOWN if it cannot be read."""
    try:
        return json.loads(policy) if isinstance(policy, str) else policy
    except (ValueError, RecursionError):
        return UNKNOWN


def mapping(node: object) -> Mapping[str, object]:
    """Return *node* if it is a mapping, else an empty one: templates may be malformed."""
    return node if isinstance(node, Mapping) else {}


@dataclass(frozen=True)
class Deployment:
    """One stack of a template: what its parameters are, and its open conditions."""

    template: Mapping[str, object]
    parameters: Mapping[str, Value]
    conditions: Mapping[str, bool] = field(default_factory=dict)

    def resolve(self, node: object, default: object = UNKNOWN) -> object:
        """Return *node* as plain JSON, UNKNOWN where it stays open, *default* for no value."""
        resolved = self._resolve(node)
        return default if resolved is _NO_VALUE else resolved

    def text(self, node: object) -> str:
        """Return *node* resolved if that is text, else UNKNOWN."""
        resolved = self._resolve(node)
        return resolved if isinstance(resolved, str) else UNKNOWN

    def items(self, node: object, path: Path) -> Iterator[tuple[object, Path]]:
        """Yield each item of a list (or single value), resolved, with its place in the template."""
        taken, path = self.branch(node, path)
        if isinstance(taken, list):
            for index, item in enumerate(taken):
                chosen, place = self.branch(item, (*path, index))
                if (resolved := self._resolve(chosen)) is not _NO_VALUE:
                    yield resolved, place
        elif (resolved := self._resolve(taken)) is not _NO_VALUE:
            for item in listed(resolved):
                yield item, path

    def holds(self, condition: object) -> Truth:
        """Evaluate a condition by name."""
        name = str(condition)
        if name in self.conditions:
            return self.conditions[name]
        defined = mapping(self.template.get("Conditions")).get(name)
        try:
            return self._truth(defined)
        except RecursionError:
            return Doubt(f"condition {name} refers to itself")

    def branch(self, node: object, path: Path) -> tuple[object, Path]:
        """Follow Fn::If to the branch that this deployment takes."""
        while isinstance(node, Mapping) and list(node) == ["Fn::If"]:
            branches = node["Fn::If"]
            if not isinstance(branches, list) or len(branches) != len(("name", "then", "else")):
                break
            truth = self.holds(branches[0])
            if isinstance(truth, Doubt):
                break
            branch = 1 if truth else 2
            node, path = branches[branch], (*path, "Fn::If", branch)
        return node, path

    def _truth(self, node: object) -> Truth:
        test = mapping(node)
        name = next(iter(test), "")
        arguments = listed(test.get(name))
        if name == "Condition":
            return self.holds(test[name])
        if name == "Fn::Equals" and len(arguments) == len(("left", "right")):
            left, right = (self.text(argument) for argument in arguments)
            if UNKNOWN in left + right or not self._is_told_apart(*arguments):
                return Doubt("unknown text")
            return left == right
        if name == "Fn::Not" and arguments:
            return not_(self._truth(arguments[0]))
        if name in ("Fn::And", "Fn::Or"):
            return (all_ if name == "Fn::And" else any_)([self._truth(item) for item in arguments])
        return Doubt(f"{name} is no condition function")

    def _is_told_apart(self, left: object, right: object) -> bool:
        """Say whether equal and unequal values of both sides are tried, if there are such."""
        if self._is_exact(left) and self._is_exact(right):
            return True
        if {"Ref": "AWS::AccountId"} in (left, right):  # OWNER is among the probes
            return all(
                node == {"Ref": "AWS::AccountId"} or self._is_probed(node) for node in (left, right)
            )
        return any(
            isinstance(literal, str) and self._is_probed(node)
            for literal, node in ((left, right), (right, left))
        )

    def _is_exact(self, node: object) -> bool:
        """Say whether all that *node* may be is tried: only listed values go into it."""
        declared = mapping(self.template.get("Parameters"))
        names = _dependencies(self.template, [node])
        return all("AllowedValues" in mapping(declared.get(name)) for name in names)

    def _is_probed(self, node: object) -> bool:
        """Say whether *node* takes the literals compared with it, and keys of mappings, in turn."""
        match node:
            case {"Ref": str() as name}:
                return name in self.parameters or name in _USUAL
            case {"Fn::FindInMap": list() as keys}:
                return all(isinstance(key, str) or self._is_probed(key) for key in keys)
        return False

    def _resolve(self, node: object) -> object:
        node, _ = self.branch(node, ())
        if isinstance(node, Mapping):
            name = next(iter(node), "")
            if len(node) == 1 and (name == "Ref" or str(name).startswith("Fn::")):
                return self._call(str(name), node[name])
            if any(str(key).startswith("Fn::") for key in node):
                return UNKNOWN  # a transform or a loop writes the rest of it
            pairs = ((str(key), self._resolve(value)) for key, value in node.items())
            return {key: value for key, value in pairs if value is not _NO_VALUE}
        if isinstance(node, list):
            return [item for item in map(self._resolve, node) if item is not _NO_VALUE]
        if isinstance(node, (bool, int, float)):
            return node
        return UNKNOWN if node is None else str(node)

    def _call(self, function: str, argument: object) -> object:
        arguments = listed(argument)
        if not arguments:
            return UNKNOWN
        if function == "Ref":
            return self._reference(str(argument))
        if function == "Fn::GetAtt":
            parts = argument.split(".") if isinstance(argument, str) else arguments
            return self._attribute(str(parts[0]), ".".join(map(str, parts[1:])))
        if function == "Fn::Sub":
            return self._substituted(arguments)
        if function == "Fn::FindInMap":
            return self._mapped(arguments)
        return _pure(function, [self._resolve(item) for item in arguments])

    def _reference(self, name: str) -> object:
        if name == "AWS::NoValue":
            return _NO_VALUE
        if name in self.parameters:
            return self.parameters[name]
        return _FIXED.get(name) or _USUAL.get(name) or self._attribute(name, "Ref")

    def _attribute(self, resource: str, attribute: str) -> str:
        body = mapping(mapping(self.template.get("Resources")).get(resource))
        partition = self._reference("AWS::Partition")
        if body.get("Type") in ("AWS::KMS::Key", "AWS::KMS::ReplicaKey"):
            arn = f"arn:{partition}:kms:{self._reference('AWS::Region')}:{OWNER}:key/{resource}"
            return {"Arn": arn, "Ref": resource, "KeyId": resource}.get(attribute, UNKNOWN)
        if body.get("Type") == "AWS::IAM::Role":
            properties = mapping(body.get("Properties"))
            name = self.text(properties.get("RoleName", resource))
            arn = f"arn:{partition}:iam::{OWNER}:role{self.text(properties.get('Path', '/'))}{name}"
            return {"Arn": arn, "Ref": name}.get(attribute, UNKNOWN)
        return UNKNOWN

    def _substituted(self, arguments: Sequence[object]) -> str:
        template, own = str(arguments[0]), mapping(arguments[1] if len(arguments) > 1 else None)

        def value(found: re.Match[str]) -> str:
            name = found[1].strip()
            if name.startswith("!"):
                return f"${{{name[1:]}}}"
            if name in own:
                return self.text(own[name])
            resource, _, attribute = name.partition(".")
            got = self._attribute(resource, attribute) if attribute else self._reference(name)
            return got if isinstance(got, str) else UNKNOWN

        return re.sub(r"\$\{([^}]*)\}", value, template)

    def _mapped(self, arguments: Sequence[object]) -> object:
        found: object = self.template.get("Mappings")
        if _dependencies({}, arguments) & set(_FIXED):  # of accounts and stacks only one is tried
            return UNKNOWN
        for key in arguments[:3]:
            found = mapping(found).get(self.text(key))
        return UNKNOWN if found is None else self._resolve(found)


def _pure(function: str, arguments: Sequence[object]) -> object:
    """Call a function that depends on its arguments alone."""
    match function, arguments:
        case "Fn::Join", [str() as delimiter, list() as items]:
            texts = [str(item) if isinstance(item, (str, int)) else UNKNOWN for item in items]
            return delimiter.join(texts)
        case "Fn::Split", [str() as delimiter, str() as text] if UNKNOWN not in text and delimiter:
            return text.split(delimiter)
        case "Fn::Select", [index, list() as items] if str(index).isdecimal():
            return items[int(str(index))] if int(str(index)) < len(items) else UNKNOWN
        case "Fn::ToJsonString", [document]:
            return json.dumps(document, ensure_ascii=False)
    return UNKNOWN


# --- every value that a parameter may take -------------------------------------------------------


def deployments(template: Mapping[str, object], *nodes: object) -> Iterator[Deployment]:
    """Yield stacks that stand for every deployment, as far as *nodes* can tell them apart."""
    names = _dependencies(template, nodes)
    declared = mapping(template.get("Parameters"))
    literals = _compared_literals(template.get("Conditions"))
    keys = _mapping_keys(template, [*nodes, template.get("Conditions")])
    alone = {name for node in nodes for name in _standing_alone(node)}
    in_actions = _dependencies(template, [part for node in nodes for part in _actions(node)])
    choices: dict[str, Sequence[Value]] = {}
    for name in sorted(names):
        if name in declared:
            probes = PROBES if name in alone else NAMES
            choices[name] = _values(mapping(declared[name]), [*literals, *keys], probes)
            if name in in_actions and "AllowedValues" not in mapping(declared[name]):
                choices[name] = [*choices[name], UNKNOWN]
        elif name in _USUAL:
            choices[name] = _places(name, literals, keys)
    tried = sorted(names & set(mapping(template.get("Conditions"))))
    for values in _combinations(choices):
        stack = Deployment(template, values)
        unclear = [name for name in tried if isinstance(stack.holds(name), Doubt)]
        if len(unclear) > math.log2(DEPLOYMENTS_MAX):
            yield stack
            continue
        for truths in itertools.product((True, False), repeat=len(unclear)):
            yield Deployment(template, values, dict(zip(unclear, truths, strict=True)))


def _combinations(choices: Mapping[str, Sequence[Value]]) -> Iterator[dict[str, Value]]:
    if math.prod(map(len, choices.values())) <= DEPLOYMENTS_MAX:
        for combination in itertools.product(*choices.values()):
            yield dict(zip(choices, combination, strict=True))
        return
    usual = {name: values[0] for name, values in choices.items()}
    for name, values in choices.items():
        yield from ({**usual, name: value} for value in values)
    yield {name: usual[name] if name in _USUAL else UNKNOWN for name in choices}


def _dependencies(template: Mapping[str, object], nodes: Iterable[object]) -> set[str]:
    """Return the names of parameters, conditions and pseudo parameters that *nodes* depend on."""
    found: set[str] = set()
    pending = [*nodes]
    conditions = mapping(template.get("Conditions"))
    while pending:
        node = pending.pop()
        names: list[str] = []
        if isinstance(node, Mapping):
            names = [
                str(node[key]) for key in ("Ref", "Condition") if isinstance(node.get(key), str)
            ]
            names += [str(name) for name in listed(node.get("Fn::If", []))[:1]]
            pending += node.values()
        elif isinstance(node, list):
            pending += node
        elif isinstance(node, str):
            names = re.findall(r"\$\{([^!}][^}]*)\}", node)
        fresh = set(names) - found
        found |= fresh
        pending += [conditions[name] for name in fresh if name in conditions]
    return found


def _standing_alone(node: object) -> Iterator[str]:
    """Yield names of parameters that are a whole text, or an ARN's account, or begin a text."""
    if isinstance(node, Mapping):
        if isinstance(node.get("Ref"), str):
            yield str(node["Ref"])
        for child in node.values():
            yield from _standing_alone(child)
    elif isinstance(node, list):
        for child in node:
            yield from _standing_alone(child)
    elif isinstance(node, str):
        yield from re.findall(r"(?:^|::|[}\"])\$\{([^!}][^}]*)\}", node)


def _actions(node: object) -> Iterator[object]:
    """Yield what policies inside *node*, written as text or not, say of actions."""
    if isinstance(node, Mapping):
        for key, child in node.items():
            yield from [child] if key in ("Action", "NotAction") else _actions(child)
    elif isinstance(node, list):
        for child in node:
            yield from _actions(child)
    elif isinstance(node, str):
        yield from re.findall(r"(?i)kms:\w*\$\{[^}]*\}", node)


def _compared_literals(node: object) -> list[str]:
    """Return the texts that conditions compare something with."""
    if isinstance(node, Mapping):
        own = [text for text in listed(node.get("Fn::Equals", [])) if isinstance(text, str)]
        return own + [text for child in node.values() for text in _compared_literals(child)]
    if isinstance(node, list):
        return [text for child in node for text in _compared_literals(child)]
    return []


def _mapping_keys(template: Mapping[str, object], nodes: Iterable[object]) -> list[str]:
    """Return the keys of the template's mappings if *nodes* look one up."""
    if not any("Fn::FindInMap" in str(node) for node in nodes):
        return []
    levels = [mapping(found) for found in mapping(template.get("Mappings")).values()]
    levels += [mapping(found) for level in levels for found in level.values()]
    return list(dict.fromkeys(str(key) for level in levels for key in level))


def _places(name: str, literals: Iterable[str], keys: Iterable[str]) -> list[str]:
    """Return the partitions or regions that the template distinguishes, the usual one first."""

    def fitting(texts: Iterable[str]) -> list[str]:
        return [text for text in texts if re.fullmatch(_SHAPES[name], text)]

    others = [_OTHER[name]] if fitting(literals) else []
    return list(dict.fromkeys([_USUAL[name], *fitting(literals), *fitting(keys), *others]))


def _values(
    parameter: Mapping[str, object], told_apart: Sequence[str], probes: Sequence[str]
) -> list[Value]:
    """Return values that stand for all that *parameter*'s constraints allow, the default first."""
    kind = str(parameter.get("Type"))
    if kind.startswith("AWS::SSM::"):  # the constraints are about its name, not its value
        return [UNKNOWN]
    is_list = kind == "CommaDelimitedList" or kind.startswith("List<")
    allowed = [str(value) for value in listed(parameter.get("AllowedValues", []))]
    default = [str(value) for value in listed(parameter.get("Default", []))]
    default = [item.strip() for text in default for item in text.split(",")] if is_list else default
    candidates = dict.fromkeys([*default, *(allowed or [*told_apart, *probes])])
    admission = {text: admits(parameter, text) for text in candidates}
    admitted = [text for text, truth in admission.items() if truth is True]
    if IMAGE in admitted and IMAGE.upper() in admitted:  # one of them stands for both
        admitted.remove(IMAGE.upper())
    values: list[Value] = list(admitted)
    if is_list:
        values = [[text] for text in admitted]
        values += [[]] if "" in admitted else []
    certain = not any(isinstance(truth, Doubt) for truth in admission.values())
    something_else = set(admitted) - {*default, *told_apart}
    pattern = str(parameter.get("AllowedPattern", ".*"))
    if not certain or not (allowed or (something_else and _excludes_wildcards(pattern))):
        values.append(UNKNOWN)
    return values or [UNKNOWN]


def admits(parameter: Mapping[str, object], text: str) -> Truth:
    """Say whether *parameter*'s type, lengths and pattern admit *text*, or one item of a list."""
    kind, pattern = str(parameter.get("Type")), parameter.get("AllowedPattern")
    if kind.startswith("AWS::SSM::"):
        return Doubt("the constraints are about the name of an SSM parameter, not its value")
    if "Number" in kind and not re.fullmatch(r"-?\d+(\.\d+)?", text):
        return False
    lowest, highest = parameter.get("MinLength", 0), parameter.get("MaxLength", math.inf)
    try:
        if not float(str(lowest)) <= len(text) <= float(str(highest)):
            return False
    except ValueError:
        return Doubt("a length is no number")
    return True if pattern is None else _pattern_admits(str(pattern), text)


@functools.cache
def _pattern_admits(pattern: str, text: str) -> Truth:
    try:
        with warnings.catch_warnings(action="error"):  # nested sets: Java reads them otherwise
            re.compile(pattern)
            found = regex.fullmatch(pattern, text, timeout=PATTERN_SECONDS)
    except (re.error, regex.error, Warning, OverflowError, RecursionError):
        return Doubt("the pattern cannot be read")
    except TimeoutError:  # (a+)+ tries every way to divide the text
        return Doubt("the pattern takes too long")
    return found is not None


_PLAIN_PATTERN = re.compile(
    r"""(?x) (?: [\w/:@,=-] | \\[dw./-] | [\^$()|+*?] | \(\?[:!=] | \{\d+(,\d*)?\} |
    \[ (?: [a-z]-[a-z] | [A-Z]-[A-Z] | \d-\d | [\w+=,.@/:] | \\[dw./@-] )* -? \] )*"""
)
"""Patterns none of whose tokens matches ``*`` or ``?``: these two are quantifiers there."""


def _excludes_wildcards(pattern: str) -> bool:
    """Say whether it is certain that no text matching *pattern* contains a wildcard."""
    return _PLAIN_PATTERN.fullmatch(pattern) is not None
