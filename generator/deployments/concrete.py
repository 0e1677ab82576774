"""One deployment: a template with a value for each parameter, resolved to what AWS receives.

What remains unknown (imports, transforms, attributes of resources) becomes UNKNOWN text, which the
evaluator of policies treats as an ``Unknown``.

Source: https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/intrinsic-function-reference.html
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from generator.deployments.dynamic_references import is_dynamic, is_keyed
from generator.deployments.surroundings import URL_SUFFIXES
from generator.nodes import Path, UncertainText, mapping, scalar_text, spreads, unique_json
from generator.policy.operators import UNKNOWN, Truth, Unknown, all_, any_, listed, not_

OWNER = "100000000001"
"""The stack's account, if none is given."""

DEFAULTS: Mapping[str, str] = {
    "AWS::AccountId": OWNER,
    "AWS::StackName": "stack",
    "AWS::Partition": "aws",
    "AWS::Region": "eu-west-1",
}
"""Values of pseudo parameters that are not given."""

Value: TypeAlias = str | list[str]

_NO_VALUE = object()


def parsed(policy: object) -> object:
    """Decode a policy that may be a text; UNKNOWN if it has no or more than one meaning."""
    try:
        return unique_json(policy) if isinstance(policy, str) else policy
    except (ValueError, RecursionError):
        return UNKNOWN


@dataclass(frozen=True)
class Deployment:
    """One stack of a template.

    Attributes:
        template: decoded from YAML or JSON.
        parameters: values of parameters and pseudo parameters, and of ``Resource.Attribute``.
        conditions: given values of conditions, which are not evaluated.
    """

    template: Mapping[str, object]
    parameters: Mapping[str, Value]
    conditions: Mapping[str, bool] = field(default_factory=dict)

    def resolve(self, node: object, default: object = UNKNOWN) -> object:
        """Return *node* as plain JSON, with UNKNOWN for unknown parts, *default* for no value."""
        resolved = self._resolve(node)
        return default if resolved is _NO_VALUE else resolved

    def text(self, node: object) -> str:
        """Return *node* resolved if that is text, else UNKNOWN."""
        resolved = self._resolve(node)
        found = scalar_text(resolved)
        return UNKNOWN if found is None else found

    def items(self, node: object, path: Path) -> Iterator[tuple[object, Path]]:
        """Yield each item of a list (or single value), resolved, with its path in the template."""
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
        conditions = mapping(self.template.get("Conditions"))
        if spreads(conditions):
            return Unknown("a transform may replace the conditions")
        try:
            return self._truth(conditions.get(name))
        except RecursionError:
            return Unknown(f"condition {name} refers to itself")

    def branch(self, node: object, path: Path) -> tuple[object, Path]:
        """Follow Fn::If to the branch that this deployment takes."""
        while isinstance(node, Mapping) and list(node) == ["Fn::If"]:
            branches = node["Fn::If"]
            if not isinstance(branches, list) or len(branches) != len(("name", "then", "else")):
                break
            truth = self.holds(branches[0])
            if isinstance(truth, Unknown):
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
            return Unknown("unknown text") if UNKNOWN in left + right else left == right
        if name == "Fn::Not" and arguments:
            return not_(self._truth(arguments[0]))
        if name in ("Fn::And", "Fn::Or"):
            return (all_ if name == "Fn::And" else any_)([self._truth(item) for item in arguments])
        return Unknown(f"{name} is not a condition function")

    def _resolve(self, node: object) -> object:
        found = self._evaluated(node)
        if isinstance(found, list):
            return [
                UNKNOWN if isinstance(each, str) and is_dynamic(each) else each for each in found
            ]
        return UNKNOWN if isinstance(found, str) and is_dynamic(found) else found

    def _evaluated(self, node: object) -> object:
        node, _ = self.branch(node, ())
        if isinstance(node, Mapping):
            name = next(iter(node), "")
            if len(node) == 1 and (name == "Ref" or str(name).startswith("Fn::")):
                return self._call(str(name), node[name])
            if is_keyed(node) or any(str(key).startswith("Fn::") for key in node):
                return UNKNOWN  # a transform or a loop writes the rest
            pairs = ((str(key), self._resolve(value)) for key, value in node.items())
            return {key: value for key, value in pairs if value is not _NO_VALUE}
        if isinstance(node, list):
            return [item for item in map(self._resolve, node) if item is not _NO_VALUE]
        if isinstance(node, (bool, int, float)):
            return node
        return UNKNOWN if node is None or isinstance(node, UncertainText) else str(node)

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
        if name == "AWS::URLSuffix":
            partition = str(self._reference("AWS::Partition"))
            return URL_SUFFIXES.get(partition) or self.parameters.get(name, UNKNOWN)
        if name in self.parameters:
            return self.parameters[name]
        return DEFAULTS.get(name) or self._attribute(name, "Ref")

    def _attribute(self, resource: str, attribute: str) -> str:
        given = self.parameters.get(f"{resource}.{attribute}")
        if isinstance(given, str):
            return given
        body = mapping(mapping(self.template.get("Resources")).get(resource))
        partition, account = (
            self._reference(f"AWS::{name}") for name in ("Partition", "AccountId")
        )
        if body.get("Type") in ("AWS::KMS::Key", "AWS::KMS::ReplicaKey"):
            key = str(self.parameters.get(f"{resource}.Ref", resource))
            arn = f"arn:{partition}:kms:{self._reference('AWS::Region')}:{account}:key/{key}"
            return {"Arn": arn, "Ref": key, "KeyId": key}.get(attribute, UNKNOWN)
        if body.get("Type") == "AWS::IAM::Role":
            properties = mapping(body.get("Properties"))
            given_name = self.parameters.get(f"{resource}.Ref", resource)
            name = self.text(properties.get("RoleName", given_name))
            path = self.text(properties.get("Path", "/"))
            arn = f"arn:{partition}:iam::{account}:role{path}{name}"
            return {"Arn": arn, "Ref": name}.get(attribute, UNKNOWN)
        return UNKNOWN

    def _substituted(self, arguments: Sequence[object]) -> str:
        template, own = str(arguments[0]), mapping(arguments[1] if len(arguments) > 1 else None)

        def value(found: re.Match[str]) -> str:
            name = found[1].strip()
            if "${" in name:
                return UNKNOWN
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
        for key in arguments[:3]:
            if spreads(found):
                return UNKNOWN
            members = {scalar_text(name): each for name, each in mapping(found).items()}
            if None in members:
                return UNKNOWN
            found = members.get(self.text(key))
        if found is None and len(arguments) > len(("map", "key", "key")):
            found = mapping(arguments[3]).get("DefaultValue")
        return UNKNOWN if found is None else self._resolve(found)


def _pure(function: str, arguments: Sequence[object]) -> object:
    """Call a function that depends only on its arguments."""
    match function, arguments:
        case "Fn::Join", [str() as delimiter, list() as items]:
            texts = [scalar_text(item) for item in items]
            return delimiter.join(UNKNOWN if text is None else text for text in texts)
        case "Fn::Split", [str() as delimiter, str() as text] if UNKNOWN not in text and delimiter:
            return text.split(delimiter)
        case "Fn::Select", [index, list() as items] if re.fullmatch("[0-9]{1,4}", str(index)):
            return items[int(str(index))] if int(str(index)) < len(items) else UNKNOWN
        case "Fn::ToJsonString", [document]:
            return json.dumps(document, ensure_ascii=False)
    return UNKNOWN
