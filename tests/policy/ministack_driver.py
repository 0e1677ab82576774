"""Queries ministack's policy engine: one request per line of standard input, one verdict per line.

Runs in the emulator's own environment, which has none of the project's packages.
"""

import importlib
import json
import sys
from typing import Any

engine = importlib.import_module("ministack.core.iam_evaluator")


def decide(question: dict[str, Any]) -> str:
    context = engine.EvalContext(
        principal_arn=question["principal"],
        principal_type=question["context"].get("aws:PrincipalType", ""),
        principal_account=question["account"],
        action=question["action"],
        resource_arn=question["key_arn"],
        region="eu-west-1",
        secure_transport=True,
        source_ip=question["context"].get("aws:SourceIp"),
        service_context={key.lower(): value for key, value in question["context"].items()},
    )
    policies = [engine.parse_policy_document(policy) for policy in question["identity_policies"]]
    result = engine.combine_resource_policy(
        engine.evaluate(context, policies),
        context,
        question["key_policy"],
        question["key_account"],
        required=True,
    )
    return "allowed" if result.decision == "Allow" else "denied"


for line in sys.stdin:
    sys.stdout.write(f"{decide(json.loads(line))}\n")
