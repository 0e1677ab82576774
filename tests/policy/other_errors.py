"""Where the other evaluators are wrong about conditions that few people write.

Each entry concerns a value of a policy and one of the request that an evaluator compares wrongly,
not a whole kind of condition: about others, it must agree.

Source: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_condition_operators.html
"""

import contextlib
import fractions
import json
import re
from collections.abc import Callable, Iterator

from generator.policy.operators import listed
from tests.policy.random_requests import comparisons
from tests.policy.test_other_evaluators import Explained, Question

_PATH = re.compile(r":role/.*/")

Compared = Callable[[str, str, str], bool]
"""Whether an evaluator is wrong about an operator, a policy's value and a request's."""


def _pairs(question: Question) -> Iterator[tuple[str, str, str]]:
    """Yield every operator with the policy's and the request's value that it compares."""
    stated = {key.lower(): listed(value) for key, value in question.request.context.items()}
    for operator, key, values in comparisons(question.key_policy):
        for value in stated.get(key, ()):
            yield from ((operator, each, str(value)) for each in values)


def _any(compared: Compared) -> Callable[[Question], bool]:
    return lambda question: any(compared(*pair) for pair in _pairs(question))


def _beyond_floats(operator: str, expected: str, value: str) -> bool:
    """Return whether two numbers differ, but not in a computer's floating-point numbers."""
    if "Numeric" not in operator:
        return False
    with contextlib.suppress(ValueError, OverflowError):
        numbers = fractions.Fraction(expected), fractions.Fraction(value)
        return numbers[0] != numbers[1] and float(numbers[0]) == float(numbers[1])
    return False


def _names(prefix: str) -> Callable[[Question], bool]:
    def concerns(question: Question) -> bool:
        return any(key.startswith(prefix) for _, key, _ in comparisons(question.key_policy))

    return concerns


FURTHER = [
    Explained(
        "ministack",
        "it has no federated users",
        lambda question: "federated-user" in str(question.request.principal),
    ),
    Explained(
        "ministack",
        "it compares numbers with 16 digits; AWS names no limit",
        _any(_beyond_floats),
    ),
    Explained(
        "iam-simulate",
        "it compares numbers with 16 digits; AWS names no limit",
        _any(_beyond_floats),
    ),
    Explained(
        "iam-simulate",
        "it does not compare the word arn; AWS: case-sensitive matching of the ARN",
        _any(lambda operator, expected, _: "Arn" in operator and expected.startswith("ARN:")),
    ),
    Explained(
        "iam-simulate",
        "it ignores, and says so, keys that an action does not have (AWS KMS, condition keys); "
        "for us a caller may send them",
        lambda question: (
            question.request.action == "kms:DeriveSharedSecret"
            and _names("kms:encryptioncontextkeys")(question)
        ),
    ),
    Explained(
        "iam-simulate",
        "it ignores kms:EncryptionContext:NAME (AWS KMS, condition keys), and says so",
        _names("kms:encryptioncontext:"),
    ),
    Explained(
        "iam-simulate",
        "it ignores, and says so, a condition key that AWS does not have",
        _names("kms:blob"),
    ),
    Explained(
        "iam-simulate",
        "a network /0 contains every address; a shift by 32 bits is one by 0 there",
        _any(lambda operator, expected, _: "IpAddress" in operator and expected.endswith("/0")),
    ),
    Explained(
        "iam-simulate",
        "it does not know IPv6 addresses that contain one of IPv4",
        _any(lambda operator, *both: "IpAddress" in operator and "::ffff:" in str(both)),
    ),
    Explained(
        "iam-simulate",
        "it does not read seconds since 1970, which AWS accepts for a date",
        _any(lambda operator, *both: "Date" in operator and any(map(str.isdigit, both))),
    ),
    Explained(
        "iam-simulate",
        "the ARN of a session, which is all it gets, lacks its role's path",
        _any(lambda *compared: bool(_PATH.search(compared[1]))),
    ),
    Explained(
        "ministack",
        "it applies statements without actions; no action is in an empty list",
        lambda question: '"Action": []' in json.dumps(question.key_policy),
    ),
]
"""Unlike EXPLAINED, an entry need not occur: which do depends on the seed."""
