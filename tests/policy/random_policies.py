"""Random key policies: realistic statements, and conditions that few people write.

Everything comes from the random generator passed in: the same seed makes the same policies.
"""

import copy
from collections.abc import Sequence
from random import Random
from typing import Any

from tests.policy.random_requests import FRESH, HOST, KEY_ID, OTHER, OWNER, PARTITIONS
from tests.policy.unusual_conditions import merged, recased, unusual

Json = dict[str, Any]

IMAGE, SECOND = "ab" * 48, "cd" * 48
ATTESTED = "kms:RecipientAttestation:"
KINDS = ["User", "AssumedRole"]
UNUSUAL = 0.6
"""How many of the policies have conditions that few people write."""


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
        if self.dice.random() < UNUSUAL:
            return self.unusual_policy()
        dice = self.dice
        statements = [self._own()]
        statements += [self._host() for _ in range(dice.choice([0, 1, 1, 2]))]
        statements += [self._denial() for _ in range(dice.choice([0, 1, 1, 1, 2, 3]))]
        statements += [self._further() for _ in range(dice.choice([0, 0, 1, 2]))]
        if dice.random() < 0.3:
            dice.shuffle(statements)
        return {"Version": "2012-10-17", "Statement": statements}

    def plain_policy(self) -> Json:
        """Return a policy by which nobody decrypts unattested."""
        own = {"AWS": self.arn(OWNER, "root")}
        host = {"AWS": self.arn(HOST, "root")}
        statements = [
            {"Effect": "Allow", "Principal": own, "Action": "kms:*", "Resource": "*"},
            {"Effect": "Allow", "Principal": host, "Action": "kms:Decrypt", "Resource": "*"},
            self._plain_denial(),
        ]
        return {"Version": "2012-10-17", "Statement": statements}

    def unusual_policy(self) -> Json:
        """Return a policy with conditions that few people write, each in a Deny of its own."""
        dice = self.dice
        policy = self.plain_policy()
        *allowing, denial = policy["Statement"]
        if dice.random() < 0.03:
            policy["Statement"] = self._granting_service(allowing[0])
            return policy
        if dice.random() < 0.1:
            allowing[0]["Action"] = ["kms:PutKeyPolicy", "kms:DescribeKey"]
        denials = []
        for condition in unusual(dice, self.arn):
            changed = recased(dice, condition) if dice.random() < 0.15 else condition
            more = copy.deepcopy(denial)
            more["Condition"] = merged(denial["Condition"], changed)
            denials.append(more)
        if dice.random() < 0.1:
            allowing[1]["Condition"] = merged(*unusual(dice, self.arn)[:2])
        statements = [*allowing, *(self._varied(each) for each in denials)]
        if dice.random() < 0.15:
            statements.append(copy.deepcopy(dice.choice(statements)))
        if dice.random() < 0.15:
            for statement in statements:
                statement["Sid"] = "Same"
        policy["Statement"] = statements
        return policy

    def _granting_service(self, own: Json) -> list[Json]:
        """Return statements by which only a service may let somebody decrypt, by a grant."""
        own["Action"] = ["kms:PutKeyPolicy", "kms:Encrypt"]
        service = {"Service": self.dice.choice(["ec2.amazonaws.com", "s3.amazonaws.com"])}
        action = self.dice.choice(["kms:CreateGrant", "kms:Create*", "kms:RetireGrant"])
        granting = {"Effect": "Allow", "Principal": service, "Action": action, "Resource": "*"}
        return [own, granting]

    def _plain_denial(self) -> Json:
        images = {f"{ATTESTED}ImageSha384": self.image()}
        return {
            "Effect": "Deny",
            "Principal": "*",
            "Action": ["kms:Decrypt", "kms:ReEncryptFrom", "kms:DeriveSharedSecret"],
            "Resource": "*",
            "Condition": {"StringNotEqualsIgnoreCase": images},
        }

    def _varied(self, denial: Json) -> Json:
        """Write some elements of a statement in another way, or leave something out."""
        dice = self.dice
        if dice.random() < 0.12:
            denial["Action"] = dice.choice(
                [
                    ["kms:Decrypt", "kms:ReEncrypt*"],
                    ["kms:D*", "kms:ReEncryptFrom"],
                    "kms:*",
                    ["KMS:decrypt", "kms:reencryptfrom", "kms:Derive*"],
                    ["kms:De????t", "kms:ReEncryptFrom", "kms:DeriveSharedSecret"],
                    ["kms:Decrypt", "kms:ReEncryptTo"],
                    [],
                ]
            )
        if dice.random() < 0.05:
            del denial["Action"]
            denial["NotAction"] = dice.choice(
                [["kms:Get*"], ["kms:CreateGrant", "kms:PutKeyPolicy"], "kms:DeriveSharedSecret"]
            )
        if dice.random() < 0.04:
            del denial["Resource"]
            denial["NotResource"] = dice.choice(["arn:aws:s3:::*", "*", f"*key/{KEY_ID}", []])
        if dice.random() < 0.06:
            del denial["Principal"]
            spared = dice.choice(["root", "role/a//b", "user/ann", "role/admin"])
            names = [
                self.arn(HOST, spared),
                *([self.arn(HOST, "root")] if spared != "root" else []),
            ]
            named = dice.choice([{"AWS": names}, {"AWS": []}, {"Service": "s3.amazonaws.com"}])
            denial["NotPrincipal"] = named
        elif dice.random() < 0.04:
            denial["Principal"] = dice.choice(
                [{"AWS": "*"}, {"AWS": []}, {"AWS": ["*", self.arn(HOST, "role/a//b")]}]
            )
        return denial

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
