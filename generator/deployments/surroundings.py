"""Where a stack is deployed, and the forms of account, region and identity names.

Source: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html
"""

from __future__ import annotations

from dataclasses import dataclass, field

from generator.deployments.formulas import Symbol
from generator.deployments.languages import characters, concat, literal, repeat

_LETTER, _UPPER, _DIGIT = (97, 122), (65, 90), (48, 57)
ACCOUNT_LANGUAGE = repeat(characters(_DIGIT), 12, 12)
PARTITION_LANGUAGE = concat(
    literal("aws"), repeat(concat(literal("-"), repeat(characters(_LETTER), 1)))
)
REGION_LANGUAGE = concat(
    repeat(characters(_LETTER), 1),
    repeat(concat(literal("-"), repeat(characters(_LETTER), 1)), 1),
    literal("-"),
    repeat(characters(_DIGIT), 1),
)
URL_SUFFIXES = {
    "aws": "amazonaws.com",
    "aws-us-gov": "amazonaws.com",
    "aws-cn": "amazonaws.com.cn",
}
"""AWS::URLSuffix by partition. In the others it is taken as any name: not all are documented."""
URL_SUFFIX_LANGUAGE = repeat(characters(_LETTER, _DIGIT, (45, 46)), 1)
STACK_LANGUAGE = concat(
    characters(_UPPER, _LETTER), repeat(characters(_UPPER, _LETTER, _DIGIT, (45, 45)))
)
KEY_ID_LANGUAGE = concat(
    repeat(literal("mrk-"), 0, 1), repeat(characters(_DIGIT, (97, 102), (45, 45)), 32)
)
NAME_CHARACTERS = characters(_UPPER, _LETTER, _DIGIT, *((ord(c), ord(c)) for c in "_+=,.@-"))
NAME_LANGUAGE = repeat(NAME_CHARACTERS, 1)
NAME_MAX, IDENTITY_MAX, STACK_NAME_MAX = 64, 576, 128  # characters
PATH_LANGUAGE = repeat(concat(repeat(characters((33, 126)), 1), literal("/")), 0, 1)
"""The path of a user or role after its first slash: IAM's pattern admits two slashes in a row.

Source: https://docs.aws.amazon.com/IAM/latest/APIReference/API_CreateRole.html
"""
IDENTITY_LANGUAGE = concat(PATH_LANGUAGE, NAME_LANGUAGE)


@dataclass(frozen=True)
class Surroundings:
    """Where a stack is deployed, as symbols; a known value is a symbol with one text."""

    partition: Symbol = field(
        default_factory=lambda: Symbol(
            "AWS::Partition", PARTITION_LANGUAGE, 32, rank=1, usual=("aws",)
        )
    )
    region: Symbol = field(
        default_factory=lambda: Symbol(
            "AWS::Region", REGION_LANGUAGE, 32, rank=2, usual=("eu-west-1", "us-east-1")
        )
    )
    account: Symbol = field(
        default_factory=lambda: Symbol(
            "AWS::AccountId", ACCOUNT_LANGUAGE, rank=3, usual=("111122223333", "999988887777")
        )
    )
    key_id: Symbol = field(
        default_factory=lambda: Symbol(
            "key id", KEY_ID_LANGUAGE, 36, rank=5, usual=("1234abcd-12ab-34cd-56ef-1234567890ab",)
        )
    )
