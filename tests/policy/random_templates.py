"""Random templates with one key, and random stacks of them as CloudFormation would create them.

What CloudFormation accepts and makes of a template is written here a second time, where the code
that is tested could be wrong: patterns of parameters as Python's regular expressions, scalars
without quotes as the texts that they may become, lists without the spaces around their items.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from generator.deployments.concrete import Deployment, Value, parsed
from generator.policy.operators import UNKNOWN
from generator.reading import documents
from tests.policy.random_policies import IMAGE, SECOND, Policies
from tests.policy.random_requests import (
    DECRYPTING,
    DERIVING,
    FRESH,
    HOST,
    OTHER,
    OWNER,
    PARTITIONS,
    UNNAMED,
    ZEROS,
)

Json = dict[str, Any]
Accepts = Callable[[str], bool]

NO_VALUE: Json = {"Ref": "AWS::NoValue"}
_HEX = "[0-9A-Fa-f]{96}"


@dataclass
class Drawn:
    """A random template.

    ``values`` are those that CloudFormation accepts, by parameter. In ``template``, «yes» is a
    scalar without quotes. If a ``macro`` may write the policy, no verdict is "closed"; if texts are
    ``stored`` elsewhere, they may be any. ``usage`` is a node, as in the template.
    """

    template: Json
    values: dict[str, Sequence[Value]]
    macro: bool = False
    stored: bool = False
    suffixes: Mapping[str, str] = field(default_factory=dict)
    usage: object = "ENCRYPT_DECRYPT"

    @property
    def parameters(self) -> Json:
        """The template's parameters."""
        found: Json = self.template["Parameters"]
        return found

    @property
    def resources(self) -> Json:
        """The template's resources."""
        found: Json = self.template["Resources"]
        return found

    @property
    def conditions(self) -> Json:
        """The template's conditions."""
        found: Json = self.template["Conditions"]
        return found

    @property
    def key(self) -> Json:
        """The key's properties."""
        found: Json = self.resources["Key"]["Properties"]
        return found

    def parameter(self, name: str, declaration: Json, values: Sequence[Value]) -> Json:
        """Declare a parameter that takes *values*, and return a reference to it."""
        self.parameters[name] = declaration
        self.values[name] = values
        return {"Ref": name}

    def decoded(self) -> Mapping[str, object]:
        """Return the template as it is read from a file."""
        text = json.dumps(self.template, ensure_ascii=False)
        if "«" not in text:
            return self.template
        text = re.sub("[\x85\u2028\u2029]", lambda each: f"\\u{ord(each[0]):04x}", text)  # no lines
        return documents.parse(MARKED.sub(r"\1", text))


# --- scalars without quotes ---

MARKED = re.compile('"«([^»]*)»"')
"""A scalar without quotes, in a template as JSON."""
READINGS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("true", "True", "TRUE", "yes", "Yes", "on", "ON"), ("true",)),
    **dict.fromkeys(("false", "no", "NO", "off", "False"), ("false",)),
    **{text: (text,) for text in ("y", "n", "7", "-7", "1.5", "2026-01-01", "444455556666")},
    "012": ("012", "10"),
    "0x1f": ("0x1f", "31"),
    "1_000": ("1_000", "1000"),
    "1.10": ("1.10", "1.1"),
    "1e3": ("1e3", "1000", "1000.0"),
    "+7": ("+7", "7"),
    "1:30": ("1:30", "90"),
    "0o14": ("0o14", "12"),
    "0b11": ("0b11", "3"),
    "1.0": ("1.0", "1"),
    "089": ("089", "89"),
    "2026-01-01 00:00:00": ("2026-01-01 00:00:00",),
    ".5": (".5", "0.5"),
    **dict.fromkeys(("null", "~", "Null"), ()),
}
"""The texts that CloudFormation may make of scalars; none, if it refuses them.

YAML 1.1 reads ``yes`` as a boolean, and CloudFormation writes booleans in lower case. For numbers
in another notation it is not documented whether the notation is kept.

Source: https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/template-formats.html
"""


def as_read(dice: Random, template: Json) -> Json | None:
    """Return *template* with texts for its scalars, None if CloudFormation refuses it."""
    text = json.dumps(template, ensure_ascii=False)
    chosen: dict[str, str] = {}
    for name in dict.fromkeys(MARKED.findall(text)):
        if not READINGS[name]:
            return None
        chosen[name] = dice.choice(READINGS[name])
    found: Json = json.loads(MARKED.sub(lambda each: json.dumps(chosen[each[1]]), text))
    return found


# --- templates ---

POOLS: dict[str, list[Value]] = {
    "Host": [HOST, OTHER, OWNER, FRESH, "*", f"arn:aws:iam::{HOST}:root"],
    "Other": [OTHER, HOST, OWNER, FRESH],
    "Stage": ["prod", "test", "dev"],
    "RoleName": ["admin", "ad", "support-a", "ops", "team/ops", "*", "admin*", "example"],
    "Images": [[IMAGE], [SECOND, ZEROS], [ZEROS], ["none"], ["*"], [IMAGE.upper(), SECOND], [""]],
    "Image": [IMAGE, ZEROS, "none", "*", SECOND],
    "ImageText": [IMAGE, f"{IMAGE},{ZEROS}", f"{IMAGE},{SECOND}", ZEROS, "none"],
}
"""Values for parameters, close to those that templates compare them with."""
PATTERNS: dict[str, list[str | None]] = {
    "Host": ["^[0-9]{12}$", "^[0-9]{12}$", "^([0-9]{12}|\\*)$", None],
    "Other": ["^[0-9]{12}$", f"^(?!{HOST})[0-9]+$"],
    "Stage": ["^(prod|test)$", "^[a-z]+$"],
    "RoleName": ["^[a-z/-]+$", "^(?!support-)[a-z-]+$", "^ad", "^.{1,20}$", None],
    "Images": [f"^(none|(?!0{{96}}$){_HEX})$", f"^(none|{_HEX})$", f"^(?!0{{96}}){_HEX}$", None],
    "Image": [f"^(?!0{{96}}$){_HEX}$", f"^({_HEX}|none)$", None],
    "ImageText": [f"^(none|(?!0{{96}}$){_HEX}(,{_HEX})*)$", f"^(?!.*0{{96}}){_HEX}(,{_HEX})*$"],
}
"""Patterns that mean the same in Java and in Python."""
_OURS = re.compile(rf"\$\{{(?!(AWS::[A-Za-z]+|{'|'.join(POOLS)})\}})")


class Templates(Policies):
    """Makes templates: the policies of `Policies` with parameters and functions in them."""

    def __init__(self, dice: Random) -> None:
        """Use *dice*."""
        super().__init__(dice)
        if dice.random() < 0.5:
            self.partition = "${AWS::Partition}"

    def account(self, number: str) -> Any:  # noqa: ANN401 - JSON
        """Return an account: a parameter, or its digits."""
        names = {OWNER: "AWS::AccountId", HOST: "Host", OTHER: "Other"}
        literal = self.dice.random() < (0.1 if number == OWNER else 0.3)
        return number if literal or number not in names else f"${{{names[number]}}}"

    def arn(self, account: str, resource: str) -> Any:  # noqa: ANN401 - JSON
        """Return an ARN, sometimes with a parameter for the role."""
        if resource.startswith("role/") and self.dice.random() < 0.3:
            resource = self.dice.choice(["role/${RoleName}", "role/x-${RoleName}"])
        return super().arn(account, resource)

    def image(self) -> Any:  # noqa: ANN401 - JSON
        """Return the images in the policy."""
        return self.dice.choice(
            [
                *({"Ref": "Images"}, {"Ref": "Images"}, {"Ref": "Images"}, "${Image}", IMAGE),
                *([{"Ref": "Image"}, SECOND], {"Fn::Split": [",", {"Ref": "ImageText"}]}),
                {"Fn::Select": [0, {"Ref": "Images"}]},
            ]
        )

    def template(self) -> Drawn:
        """Return a template with one key."""
        policy = self.policy()
        policy["Statement"] = [self._optional(each) for each in policy["Statement"]]
        return self._drawn(policy)

    def plain_template(self) -> Drawn:
        """Return a template whose key nobody decrypts with unattested."""
        policy = self.plain_policy()
        images = f"^(none|(?!0{{96}}$){_HEX})$"
        policy["Statement"][2]["Condition"]["StringNotEqualsIgnoreCase"] = {
            "kms:RecipientAttestation:ImageSha384": {"Ref": "Images"}
        }
        return self._drawn(policy, Images=images, Host="^[0-9]{12}$")

    def _drawn(self, policy: Json, **patterns: str) -> Drawn:
        dice = self.dice
        as_text = dice.random() < 0.15 and not re.search('"(Ref|Fn::)', json.dumps(policy))
        document = {"Fn::Sub": escaped(json.dumps(policy))} if as_text else self.functions(policy)
        parameters: Json = {}
        values: dict[str, Sequence[Value]] = {}
        for name, found in PATTERNS.items():
            kind = "CommaDelimitedList" if name == "Images" else "String"
            pattern = patterns.get(name) or dice.choice(found)
            parameters[name] = {"Type": kind, **({"AllowedPattern": pattern} if pattern else {})}
            values[name] = [each for each in POOLS[name] if _matches(pattern, each)]
        if dice.random() < 0.2:
            parameters["Host"] = {"Type": "String", "AllowedValues": [HOST, OTHER]}
            values["Host"] = [HOST, OTHER]
        stage = {"Ref": "Stage"}
        template = {
            "Parameters": parameters,
            "Mappings": {"Effects": {"prod": {"E": "Deny"}, "test": {"E": "Deny"}}},
            "Conditions": {
                "Production": {"Fn::Equals": [stage, "prod"]},
                "Far": {"Fn::Not": [{"Fn::Equals": [{"Ref": "AWS::Region"}, "eu-west-1"]}]},
                "Same": {"Fn::Equals": [{"Ref": "Host"}, {"Ref": "Other"}]},
                "Both": {"Fn::Or": [{"Condition": "Same"}, {"Condition": "Production"}]},
            },
            "Resources": {"Key": {"Type": "AWS::KMS::Key", "Properties": {"KeyPolicy": document}}},
        }
        return Drawn(template, values)

    def _optional(self, statement: Json) -> Json:
        dice = self.dice
        if statement["Effect"] == "Deny" and dice.random() < 0.1:
            effect = {"Fn::FindInMap": ["Effects", {"Ref": "Stage"}, "E"]}
            statement = {**statement, "Effect": effect}
        if dice.random() < 0.12:
            condition = dice.choice(["Production", "Far", "Same", "Both"])
            branches = [statement, NO_VALUE] if dice.random() < 0.5 else [NO_VALUE, statement]
            return {"Fn::If": [condition, *branches]}
        return statement

    def functions(self, node: Any) -> Any:  # noqa: ANN401 - JSON
        """Write texts with parameters in them as functions."""
        if isinstance(node, dict):
            return {key: self.functions(value) for key, value in node.items()}
        if isinstance(node, list):
            return [self.functions(value) for value in node]
        if not isinstance(node, str) or not re.search(r"\$\{[A-Z]", node):
            return node
        if alone := re.fullmatch(r"\$\{([^}]+)\}", node):
            return {"Ref": alone[1]}
        if self.dice.random() < 0.8 or _OURS.search(node):
            return {"Fn::Sub": escaped(node)}
        parts = [part for part in re.split(r"(\$\{[^}]+\})", node) if part]
        return {"Fn::Join": ["", [*map(self.functions, parts)]]}


def escaped(text: str) -> str:
    """Return *text* for Fn::Sub: IAM's variables and escapes stay as they are."""
    return _OURS.sub("${!", text)


def _matches(pattern: str | None, value: Value) -> bool:
    items = value if isinstance(value, list) else [value]
    return pattern is None or all(re.fullmatch(pattern, item) for item in items)


# --- stacks ---


@dataclass(frozen=True)
class Stack:
    """A stack of a template: where it is, its key's policy, and what its key is used for.

    ``named`` is the policy as far as the template determines it: it names the bound images.
    """

    account: str
    place: tuple[str, str]
    policy: Json
    named: Json
    actions: Sequence[str]


def stacks(dice: Random, drawn: Drawn, count: int) -> Iterator[Stack]:
    """Yield stacks of a template that CloudFormation accepts."""
    if not all(drawn.values.values()):
        return
    for _ in range(count):
        template = as_read(dice, drawn.template)
        if template is None:
            return
        values: dict[str, Value] = {name: dice.choice(each) for name, each in drawn.values.items()}
        account = dice.choice([OWNER, OWNER, OWNER, HOST, FRESH])
        partition = dice.choice([*PARTITIONS])
        values |= {"AWS::AccountId": account, "AWS::Partition": partition}
        values |= {"AWS::Region": PARTITIONS[partition]}
        stack = Deployment(template, values)
        node = template["Resources"]["Key"]["Properties"].get("KeyPolicy", NO_VALUE)
        named = parsed(stack.resolve(node, default=_default(partition, account)))
        usage = stack.resolve(drawn.usage, default="ENCRYPT_DECRYPT")
        policy = _stored(dice, named) if drawn.stored else named
        if isinstance(policy, dict) and UNKNOWN not in json.dumps(policy, ensure_ascii=False):
            place = (partition, PARTITIONS[partition])
            yield Stack(account, place, policy, named, _actions(usage))  # type: ignore[arg-type] # a policy


def _default(partition: str, account: str) -> Json:
    """Return the policy of a key without one.

    Source: https://docs.aws.amazon.com/kms/latest/developerguide/key-policy-default.html
    """
    own = {"AWS": f"arn:{partition}:iam::{account}:root"}
    statement = {"Effect": "Allow", "Principal": own, "Action": "kms:*", "Resource": "*"}
    return {"Version": "2012-10-17", "Statement": [statement]}


def _stored(dice: Random, node: Any) -> Any:  # noqa: ANN401 - JSON
    """Put a text that a service may have stored in place of each that is not known."""
    if isinstance(node, dict):
        return {key: _stored(dice, value) for key, value in node.items()}
    if isinstance(node, list):
        return [_stored(dice, value) for value in node]
    return dice.choice([UNNAMED, "*", "x"]) if node == UNKNOWN else node


def _actions(usage: object) -> Sequence[str]:
    """Return what yields plaintext with a key of a usage; everything, if it is not known."""
    known = {
        "ENCRYPT_DECRYPT": DECRYPTING,
        "KEY_AGREEMENT": DERIVING,
        UNKNOWN: DECRYPTING + DERIVING,
    }
    return known.get(str(usage), ())
