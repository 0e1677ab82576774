"""Random key policies and templates, composed of realistic statements, and random requests.

Everything comes from the random generator passed in: the same seed makes the same documents.
"""

import json
import re
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

from generator.access.attestations import worth
from generator.access.requests import KNOWN_KEYS
from generator.deployments.concrete import Deployment, Value, parsed
from generator.deployments.parameters import takes
from generator.policy.operators import UNKNOWN, Values, listed
from generator.policy.request import Attestation, Kind, Principal, Request

Json = dict[str, Any]

OWNER, HOST, OTHER, FRESH = "111122223333", "444455556666", "777788889999", "123456789012"
IMAGE, SECOND, UNNAMED, ZEROS = "ab" * 48, "cd" * 48, "ef" * 48, "0" * 96
KEY_ID = "11111111-2222-3333-4444-555555555555"
ATTESTED = "kms:RecipientAttestation:"
KINDS = ["User", "AssumedRole"]
PARTITIONS = {"aws": "eu-west-1", "aws-cn": "cn-north-1", "aws-us-gov": "us-gov-west-1"}


def _some(dice: Random, items: Sequence[Any], most: int = 3) -> list[Any]:
    return dice.sample(items, dice.randint(1, min(most, len(items))))


def _maybe_list(dice: Random, items: list[Any]) -> Any:  # noqa: ANN401 - JSON
    return items[0] if len(items) == 1 and dice.random() < 0.6 else items


class Policies:
    """Makes policies; subclasses put parameters into them, by `account` and `text`."""

    def __init__(self, dice: Random) -> None:
        """Use *dice*."""
        self.dice = dice
        self.partition = dice.choice(["aws"] * 6 + ["aws-cn", "aws-us-gov"])

    def account(self, number: str) -> Any:  # noqa: ANN401 - JSON
        """Return an account as it is written in the policy."""
        return number

    def text(self, *parts: Any) -> Any:  # noqa: ANN401 - JSON
        """Return texts and accounts as one text."""
        return "".join(parts)

    def image(self) -> Any:  # noqa: ANN401 - JSON
        """Return the images in the policy."""
        return _maybe_list(self.dice, _some(self.dice, [IMAGE, SECOND, IMAGE.upper()], 2))

    def policy(self) -> Json:
        """Return a policy."""
        dice = self.dice
        statements = [self._own()]
        statements += [self._host() for _ in range(dice.choice([0, 1, 1, 2]))]
        statements += [self._denial() for _ in range(dice.choice([0, 1, 1, 1, 2, 3]))]
        statements += [self._further() for _ in range(dice.choice([0, 0, 1, 2]))]
        if dice.random() < 0.3:
            dice.shuffle(statements)
        return {"Version": "2012-10-17", "Statement": statements}

    def arn(self, account: str, resource: str) -> Any:  # noqa: ANN401 - JSON
        """Return the ARN of a principal."""
        return self.text(f"arn:{self.partition}:iam::", self.account(account), f":{resource}")

    def principal(self, account: str) -> Any:  # noqa: ANN401 - JSON
        """Return a principal of *account*."""
        names = ["role/admin", "role/support-a", "role/team/ops", "user/ann"]
        kind = self.dice.random()
        if kind < 0.5:
            return self.arn(account, "root")
        if kind < 0.6:
            return self.account(account)
        return self.arn(account, self.dice.choice(names))

    def _region(self) -> str:
        return PARTITIONS.get(self.partition, "${AWS::Region}")

    def _own(self) -> Json:
        actions = self.dice.choice(
            ["kms:*", "kms:*", "kms:*", "*", ["kms:PutKeyPolicy", "kms:DescribeKey"], "kms:[CD]*"]
        )
        if actions == "kms:[CD]*":
            actions = ["kms:C*", "kms:D*"]
        own = {"AWS": self.arn(OWNER, "root")}
        return {"Effect": "Allow", "Principal": own, "Action": actions, "Resource": "*"}

    def _host(self) -> Json:
        dice = self.dice
        names = [
            self.principal(dice.choice([HOST, HOST, OTHER])) for _ in range(dice.choice([1, 1, 2]))
        ]
        statement: Json = {
            "Effect": "Allow",
            "Principal": {"AWS": _maybe_list(dice, names)},
            "Action": dice.choice(["kms:Decrypt", ["kms:Decrypt", "kms:DescribeKey"], "kms:De*"]),
            "Resource": "*",
        }
        if dice.random() < 0.3:
            statement["Condition"] = self._condition(spares=False)
        if dice.random() < 0.15:
            statement["Principal"] = "*"
        return statement

    def _denial(self) -> Json:
        dice = self.dice
        statement: Json = {
            "Effect": "Deny",
            "Principal": dice.choice(["*", "*", {"AWS": "*"}, {"AWS": self.principal(HOST)}]),
            "Action": dice.choice(
                [["kms:Decrypt", "kms:ReEncryptFrom"]] * 3
                + ["kms:*", "kms:Decrypt", ["kms:D*", "kms:ReEncrypt*"]]
            ),
            "Resource": "*",
            "Condition": self._unattested(),
        }
        if dice.random() < 0.12:
            del statement["Action"]
            statement["NotAction"] = ["kms:PutKeyPolicy", "kms:Describe*", "kms:CreateGrant"]
        if dice.random() < 0.08:
            del statement["Principal"]
            account = dice.choice([HOST, OWNER])
            statement["NotPrincipal"] = {
                "AWS": [self.arn(account, "root"), self.arn(account, "role/admin")]
            }
        if dice.random() < 0.12:
            statement["Resource"] = dice.choice(
                [
                    f"arn:{self.partition}:kms:{self._region()}:{OWNER}:key/*",
                    f"arn:*:kms:*:*:key/{KEY_ID}",
                    f"arn:{self.partition}:kms:*",
                ]
            )
        if dice.random() < 0.45:
            for operator, keys in self._condition(spares=True).items():
                statement["Condition"].setdefault(operator, {}).update(keys)
        return statement

    def _unattested(self) -> Json:
        dice = self.dice
        register = dice.choice(["ImageSha384"] * 6 + ["PCR0", "PCR8", "NitroTPMPCR4"])
        operator = dice.choice(
            ["StringNotEqualsIgnoreCase"] * 6
            + ["StringNotEquals", "StringNotEqualsIfExists", "StringNotLike", "Null"]
            + ["ForAnyValue:StringNotEquals", "ForAllValues:StringNotEquals"]
        )
        value = "true" if operator == "Null" else self.image()
        if operator == "StringNotLike" and dice.random() < 0.5:
            value = [f"{IMAGE[:40]}*", "?" * 96]
        condition: Json = {operator: {ATTESTED + register: value}}
        if register == "NitroTPMPCR4":
            condition[operator][f"{ATTESTED}NitroTPMPCR12"] = value
        return condition

    def _condition(self, *, spares: bool) -> Json:
        """Return a condition that narrows a statement; a Deny *spares* callers that it excludes."""
        dice = self.dice
        account = dice.choice([OWNER, HOST, OTHER])
        negated = dice.random() < (0.75 if spares else 0.25)
        arns = [
            self.arn(account, "role/support-*"),
            self.arn(account, "role/admin"),
            self.arn(account, "user/*"),
            self.arn(account, "root"),
            f"arn:{self.partition}:iam::*:role/*ops*",
            f"arn:*:iam::{account}:*",
            f"arn:{self.partition}:sts::{account}:federated-user/audit",
        ]
        picked = _maybe_list(dice, _some(dice, arns, 2))
        if_exists = "IfExists" if dice.random() < 0.15 else ""
        not_ = "Not" if negated else ""
        number = self.account(account)
        service = f"s3.{self._region()}.amazonaws.com"
        return dice.choice(
            [
                {f"Arn{not_}Like{if_exists}": {"aws:PrincipalArn": picked}},
                {f"Arn{not_}Equals": {"aws:PrincipalArn": picked}},
                {f"String{not_}Like{if_exists}": {"aws:PrincipalArn": picked}},
                {f"String{not_}Equals{if_exists}": {"aws:PrincipalAccount": number}},
                {f"String{not_}Equals": {"kms:CallerAccount": [number, FRESH]}},
                {f"String{not_}Equals": {"aws:PrincipalType": dice.choice(KINDS)}},
                {f"String{not_}Equals{if_exists}": {"aws:PrincipalTag/team": ["blue", "red"]}},
                {f"String{not_}Like": {"aws:PrincipalTag/team": "b*"}},
                {f"String{not_}Equals{if_exists}": {"kms:ViaService": service}},
                {f"String{not_}Equals": {"aws:PrincipalOrgID": "o-1"}},
                {"Bool": {"aws:ViaAWSService": dice.choice(["true", "false"])}},
                {"Bool": {"aws:PrincipalIsAWSService": dice.choice(["true", "false"])}},
                {"BoolIfExists": {"aws:MultiFactorAuthPresent": "false"}},
                {"Null": {"aws:PrincipalTag/team": dice.choice(["true", "false"])}},
                {"Null": {"aws:PrincipalArn": dice.choice(["true", "false"])}},
                {f"ForAnyValue:String{not_}Equals": {"kms:EncryptionContextKeys": ["app", "x"]}},
                {f"ForAllValues:String{not_}Like": {"aws:PrincipalOrgPaths": ["o-1/*", "o-2/a"]}},
                {f"{not_}IpAddress": {"aws:SourceIp": dice.choice(["10.0.0.0/8", "192.0.2.7"])}},
                {"NumericLessThan": {"aws:MultiFactorAuthAge": "3600"}},
                {"DateGreaterThan": {"aws:CurrentTime": "2026-01-01T00:00:00Z"}},
            ]
        )

    def _further(self) -> Json:
        dice = self.dice
        action = dice.choice(["kms:CreateGrant", "kms:DescribeKey", "kms:Encrypt", "kms:Re*"])
        principal = {"AWS": self.principal(dice.choice([OWNER, HOST]))}
        statement: Json = {
            "Effect": dice.choice(["Allow", "Allow", "Deny"]),
            "Principal": dice.choice([principal, principal, {"Service": "ec2.amazonaws.com"}, "*"]),
            "Action": action,
            "Resource": "*",
        }
        if dice.random() < 0.5:
            statement["Condition"] = self._condition(spares=False)
        return statement


# --- requests ------------------------------------------------------------------------------------


def _statements(policy: Json) -> list[Json]:
    return [each for each in listed(policy["Statement"]) if isinstance(each, dict)]


def partitions(policy: Json) -> list[str]:
    """Return the partitions in which KMS stores *policy*: those of the principals it names."""
    named = set()
    for statement in _statements(policy):
        for element in ("Principal", "NotPrincipal"):
            text = json.dumps(statement.get(element, ""))
            named |= set(re.findall(r"arn:([a-z-]+):iam:", text))
    return [*PARTITIONS] if not named else [*named] if len(named) == 1 else []


def requests(dice: Random, policy: Json, owner: str, count: int) -> Iterator[Request]:
    """Yield requests for plaintext whose values are close to those in *policy*."""
    possible = partitions(policy)
    texts = [*_texts(policy["Statement"])]
    keys = [*_keys(policy)]
    for _ in range(count if possible else 0):
        partition = dice.choice(possible)
        region = dice.choice([PARTITIONS[partition], PARTITIONS[partition][:-1] + "9"])
        context: dict[str, Values] = {}
        for operator, key, values in keys:
            if not KNOWN_KEYS.fullmatch(key):
                context[key] = _value(dice, operator, values)
        yield Request(
            dice.choice(["kms:Decrypt", "kms:Decrypt", "kms:ReEncryptFrom"]),
            _caller(dice, texts, owner, partition),
            owner,
            f"arn:{partition}:kms:{region}:{owner}:key/{KEY_ID}",
            _attestation(dice, texts),
            context,
            context_is_complete=True,
        )


def _value(dice: Random, operator: str, values: list[str]) -> Values:
    if dice.random() < 0.35:
        return ()
    near = {
        "IpAddress": ["10.1.2.3", "192.0.2.7", "8.8.8.8", "2001:db8::1"],
        "NotIpAddress": ["10.1.2.3", "192.0.2.7", "8.8.8.8", "2001:db8::1"],
        "NumericLessThan": ["0", "3600", "3599", "99999"],
        "DateGreaterThan": ["2025-01-01T00:00:00Z", "2027-01-01T00:00:00Z"],
        "Bool": ["true", "false"],
        "BoolIfExists": ["true", "false"],
    }.get(operator, [*map(_filled, values), "other", "blue"])
    if operator.startswith("For"):
        return tuple(dict.fromkeys(dice.choice(near) for _ in range(dice.choice([1, 1, 2]))))
    return dice.choice(near)


def _filled(pattern: str) -> str:
    return pattern.replace("*", "x").replace("?", "x")


def _caller(dice: Random, texts: list[str], owner: str, partition: str) -> Principal:
    accounts = {owner, FRESH, *(a for text in texts for a in re.findall(r"\d{12}", text))}
    names = {"example", "admin", "x"}
    for text in texts:
        if found := re.search(r":(?:role|user|assumed-role|federated-user)/(.+)", text):
            names |= {_filled(found[1]), _filled(found[1]) + "z"}
    kind = dice.choice([Kind.ROLE] * 4 + [Kind.USER] * 2 + [*Kind])
    account, name = dice.choice(sorted(accounts)), dice.choice(sorted(names))
    iam, sts = f"arn:{partition}:iam::{account}:", f"arn:{partition}:sts::{account}:"
    if kind is Kind.ROLE:
        role = name.rpartition("/")[2]
        return Principal(kind, account, (f"{iam}role/{name}", f"{sts}assumed-role/{role}/session"))
    if kind is Kind.SERVICE:
        return Principal(kind, "", (dice.choice(["ec2.amazonaws.com", "s3.amazonaws.com"]),))
    if kind is Kind.ANONYMOUS:
        return Principal(kind, "", ())
    own = {
        Kind.ROOT: f"{iam}root",
        Kind.USER: f"{iam}user/{name}",
        Kind.FEDERATED: f"{sts}federated-user/{name.rpartition('/')[2]}",
    }[kind]
    return Principal(kind, account, (own,))


def _attestation(dice: Random, texts: list[str]) -> Attestation | None:
    digests = [*{_digest(text) for text in texts if re.fullmatch(r"[0-9A-Fa-f*?]{40,96}", text)}]
    kind = dice.random()
    if kind < 0.4:
        return None
    if kind < 0.5:
        return Attestation(dict.fromkeys((0, 1, 2, 3, 4, 8), ZEROS))
    some = [*digests, UNNAMED, ZEROS]
    if kind < 0.85:
        return Attestation({number: dice.choice(some) for number in (0, 1, 2, 3, 4, 8)})
    return Attestation(nitrotpm={number: dice.choice(some) for number in (4, 7, 12)})


def _digest(pattern: str) -> str:
    return pattern.replace("?", "f").replace("*", "f" * 96)[:96].lower()


def is_bound(policy: Json, request: Request) -> bool:
    """Return whether a request attests an image that *policy* names."""
    takes = request.action == "kms:Decrypt"
    return takes and worth(policy, request.attestation).name == "BOUND"


def _texts(node: object) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict | list):
        for child in node.values() if isinstance(node, dict) else node:
            yield from _texts(child)


def _keys(policy: Json) -> Iterator[tuple[str, str, list[str]]]:
    for statement in _statements(policy):
        for operator, keys in statement.get("Condition", {}).items():
            for key, values in keys.items():
                yield operator, key.lower(), [*map(str, listed(values))]


# --- templates -----------------------------------------------------------------------------------

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
_HEX = "[0-9A-Fa-f]{96}"
PATTERNS: dict[str, list[str | None]] = {
    "Host": ["^[0-9]{12}$", "^[0-9]{12}$", "^([0-9]{12}|\\*)$", None],
    "Other": ["^[0-9]{12}$", f"^(?!{HOST})[0-9]+$"],
    "Stage": ["^(prod|test)$", "^[a-z]+$"],
    "RoleName": ["^[a-z/-]+$", "^(?!support-)[a-z-]+$", "^ad", "^.{1,20}$", None],
    "Images": [f"^(none|(?!0{{96}}$){_HEX})$", f"^(none|{_HEX})$", f"^(?!0{{96}}){_HEX}$", None],
    "Image": [f"^(?!0{{96}}$){_HEX}$", f"^({_HEX}|none)$", None],
    "ImageText": [f"^(none|(?!0{{96}}$){_HEX}(,{_HEX})*)$", f"^(?!.*0{{96}}){_HEX}(,{_HEX})*$"],
}


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

    def template(self) -> Json:
        """Return a template with one key."""
        dice = self.dice
        policy = self.policy()
        policy["Statement"] = [self._optional(each) for each in policy["Statement"]]
        as_text = dice.random() < 0.15 and not re.search('"(Ref|Fn::)', json.dumps(policy))
        document = {"Fn::Sub": json.dumps(policy)} if as_text else self._functions(policy)
        parameters: Json = {}
        for name, found in PATTERNS.items():
            kind = "CommaDelimitedList" if name == "Images" else "String"
            pattern = dice.choice(found)
            parameters[name] = {"Type": kind, **({"AllowedPattern": pattern} if pattern else {})}
        if dice.random() < 0.2:
            parameters["Host"] = {"Type": "String", "AllowedValues": [HOST, OTHER]}
        stage = {"Ref": "Stage"}
        return {
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

    def _optional(self, statement: Json) -> Json:
        dice = self.dice
        if statement["Effect"] == "Deny" and dice.random() < 0.1:
            effect = {"Fn::FindInMap": ["Effects", {"Ref": "Stage"}, "E"]}
            statement = {**statement, "Effect": effect}
        if dice.random() < 0.12:
            condition = dice.choice(["Production", "Far", "Same", "Both"])
            nothing = {"Ref": "AWS::NoValue"}
            branches = [statement, nothing] if dice.random() < 0.5 else [nothing, statement]
            return {"Fn::If": [condition, *branches]}
        return statement

    def _functions(self, node: Any) -> Any:  # noqa: ANN401 - JSON
        """Write texts with parameters in them as functions."""
        if isinstance(node, dict):
            return {key: self._functions(value) for key, value in node.items()}
        if isinstance(node, list):
            return [self._functions(value) for value in node]
        if not isinstance(node, str) or "${" not in node:
            return node
        if alone := re.fullmatch(r"\$\{([^}]+)\}", node):
            return {"Ref": alone[1]}
        if self.dice.random() < 0.8:
            return {"Fn::Sub": node}
        parts = [part for part in re.split(r"(\$\{[^}]+\})", node) if part]
        return {"Fn::Join": ["", [*map(self._functions, parts)]]}


def deployments(dice: Random, template: Json, count: int) -> Iterator[tuple[Deployment, Json]]:
    """Yield stacks of a template that CloudFormation accepts, and the key's policy in each."""
    admitted = {
        name: [value for value in POOLS[name] if takes(declaration, value) is True]
        for name, declaration in template["Parameters"].items()
    }
    if not all(admitted.values()):
        return
    for _ in range(count):
        values: dict[str, Value] = {name: dice.choice(found) for name, found in admitted.items()}
        values["AWS::AccountId"] = dice.choice([OWNER, OWNER, OWNER, HOST, FRESH])
        partition = dice.choice([*PARTITIONS])
        values |= {"AWS::Partition": partition, "AWS::Region": PARTITIONS[partition]}
        stack = Deployment(template, values)
        policy = stack.resolve(template["Resources"]["Key"]["Properties"]["KeyPolicy"])
        found = parsed(policy)
        if isinstance(found, dict) and UNKNOWN not in json.dumps(found, ensure_ascii=False):
            yield stack, found
