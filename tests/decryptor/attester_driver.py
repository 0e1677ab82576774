"""Requests data keys as the decryptor does: reads one order per line, writes one outcome per line.

It runs under the rehearsal's `nitro.c`, once for all tests: starting Python each time is slow.
"""

from __future__ import annotations

import json
import sys

from decryptor.attester import Attester
from decryptor.errors import KeyReleaseError

for line in sys.stdin:
    order = json.loads(line)
    encrypted_key = bytes.fromhex(order.pop("encrypted_key"))
    try:
        outcome = {"key": Attester(**order).unwrap(encrypted_key).hex()}
    except KeyReleaseError as error:
        outcome = {"error": str(error)}
    sys.stdout.write(json.dumps(outcome) + "\n")
    sys.stdout.flush()
