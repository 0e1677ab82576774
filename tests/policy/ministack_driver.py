"""Queries ministack's policy engine: one request per line of standard input, one verdict per line.

Runs in the emulator's own environment, which has none of the project's packages.
"""

import importlib
import json
import sys
from typing import Any

engine: Any = importlib.import_module("ministack.core.iam_evaluator")
derived = engine._resolve_condition_key  # noqa: SLF001 - it has no other way to set the time


def given(key: str, context: Any) -> Any:  # noqa: ANN401 - the engine's own types
    """Return the time that the request states, not that of this machine."""
    if key.lower() in ("aws:currenttime", "aws:epochtime"):
        return context.service_context.get(key.lower())
    return derived(key, context)


engine.__dict__["_resolve_condition_key"] = given


def decide(question: dict[str, Any]) -> str:
    stated = {key.lower(): value for key, value in question["context"].items()}
    context = engine.EvalContext(
        principal_arn=question["principal"],
        principal_type=stated.get("aws:principaltype", ""),
        principal_account=question["account"],
        action=question["action"],
        resource_arn=question["key_arn"],
        region="eu-west-1",
        secure_transport=True,
        source_ip=stated.get("aws:sourceip"),
        service_context=stated,
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
