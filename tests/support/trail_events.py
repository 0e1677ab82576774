"""Events of CloudTrail about one key, as AWS's examples have them."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from hashlib import sha384
from typing import Any

OWNER, HOST = "111122223333", "444455556666"
ID = "1234abcd-12ab-34cd-56ef-1234567890ab"
ARN = f"arn:aws:kms:us-west-2:{OWNER}:key/{ID}"
OTHER = ARN.replace("1234abcd", "0987dcba")
BOUND, UNBOUND = (sha384(name).hexdigest() for name in (b"bound", b"another"))
ZEROS = "0" * 96
TODAY = datetime.now(UTC).replace(microsecond=0)


def event(name: str, minute: int = 0, key: str = ARN, /, **more: object) -> dict[str, Any]:
    """Return an event as CloudTrail records it, *minute* minutes after this time yesterday."""
    time = TODAY - timedelta(days=1) + timedelta(minutes=minute)
    return {
        "eventVersion": "1.11",
        "userIdentity": {
            "type": "AWSAccount",
            "principalId": "AROAEXAMPLE:i-123456789abcde123",
            "accountId": HOST,
        },
        "eventTime": time.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "eventSource": "kms.amazonaws.com",
        "eventName": name,
        "awsRegion": "us-west-2",
        "sourceIPAddress": "192.0.2.0",
        "userAgent": "AWS Internal",
        "requestParameters": {"encryptionAlgorithm": "SYMMETRIC_DEFAULT", "keyId": key},
        "responseElements": None,
        "requestID": "b4a65126-30d5-4b28-98b9-9153da559963",
        "eventID": f"e5a2f202-ba1a-467c-b4ba-{name[:4]}{minute:08}{key[-38:-34]}",
        "readOnly": True,
        "resources": [{"accountId": OWNER, "type": "AWS::KMS::Key", "ARN": key}],
        "eventType": "AwsApiCall",
        "managementEvent": True,
        "recipientAccountId": OWNER,
        "eventCategory": "Management",
        **more,
    }


def attested(
    image: str, minute: int = 0, *, hexadecimal: bool = False, **more: object
) -> dict[str, Any]:
    """Return an enclave's Decrypt event."""

    def written(digits: str) -> str:
        return digits if hexadecimal else base64.b64encode(bytes.fromhex(digits)).decode()

    recipient = {
        "attestationDocumentModuleId": "i-123456789abcde123-enc123456789abcde12",
        "attestationDocumentEnclaveImageDigest": written(image),
        "attestationDocumentEnclavePCR1": written(image),
        "attestationDocumentEnclavePCR8": written(ZEROS),
    }
    return event("Decrypt", minute, additionalEventData={"recipient": recipient}, **more)


def put_policy(minute: int, *images: str, **more: object) -> dict[str, Any]:
    """Return a PutKeyPolicy event that binds *images*, by the owner's administrator."""
    condition = {"StringNotEqualsIgnoreCase": {"kms:RecipientAttestation:ImageSha384": [*images]}}
    policy = {"Statement": [{"Effect": "Deny", "Action": "kms:Decrypt", "Condition": condition}]}
    return event(
        "PutKeyPolicy",
        minute,
        userIdentity={"type": "IAMUser", "arn": f"arn:aws:iam::{OWNER}:user/Alice"},
        requestParameters={
            "keyId": ID,
            "policyName": "default",
            "policy": json.dumps(policy),
            "bypassPolicyLockoutSafetyCheck": False,
        },
        **more,
    )


def refusing(image: str, *images: str) -> dict[str, Any]:
    """Return a PutKeyPolicy event that binds *images* and another, and refuses *image*."""
    found = put_policy(0, UNBOUND, *images)
    policy = json.loads(found["requestParameters"]["policy"])
    condition = {"StringEqualsIgnoreCase": {"kms:RecipientAttestation:PCR0": image}}
    policy["Statement"].append({"Effect": "Deny", "Action": "kms:*", "Condition": condition})
    found["requestParameters"]["policy"] = json.dumps(policy)
    return found


ALIAS = "alias/enclavekey"
HOSTILE_RECIPIENT = {"attestationDocumentEnclaveImageDigest": "\ue000"}
DENIED = {"errorCode": "AccessDenied", "errorMessage": "User is not authorized"}
