"""The machine of `--attest nsm`: an enclave's kernel, its connection to KMS, and a client."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.support.enclave import CREDENTIALS, DATA_KEY, ENCRYPTED_KEY, KEY_ARN
from tests.support.processes import PATIENCE

if TYPE_CHECKING:
    import subprocess

    from rehearsal.nitro import Kernel
    from tests.decryptor.scripted_kms import ScriptedKms

HOST = "kms.eu-central-1.amazonaws.com"


@dataclass
class Machine:
    """An enclave's kernel, its connection to KMS, and a process that requests data keys."""

    kernel: Kernel
    kms: ScriptedKms
    environment: dict[str, str]
    process: subprocess.Popen[str]
    settings: dict[str, Any] = field(default_factory=dict)

    def order(self, **changes: object) -> dict[str, str]:
        """Request `DATA_KEY`; return the key in hexadecimal, or the error."""
        order = {
            "region": "eu-central-1",
            "proxy_port": self.kms.port,
            "timeout": PATIENCE,
            "key_id": KEY_ARN,
            "credentials": CREDENTIALS,
            "encrypted_key": ENCRYPTED_KEY.hex(),
        }
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps(order | changes) + "\n")
        self.process.stdin.flush()
        outcome: dict[str, str] = json.loads(self.process.stdout.readline())
        return outcome

    def key(self, **changes: object) -> bytes:
        """Request a key, which must be released."""
        return bytes.fromhex(self.order(**changes)["key"])

    def error(self, **changes: object) -> str:
        """Request a key, which must be refused; return the error line, which has no secret."""
        error = self.order(**changes)["error"]
        assert error.isprintable()
        for secret in (*CREDENTIALS.values(), DATA_KEY.hex(), base64.b64encode(DATA_KEY).decode()):
            assert secret not in error
        return error
