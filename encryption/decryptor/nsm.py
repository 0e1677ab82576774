"""The Nitro security module, /dev/nsm, which attests the image that runs in this enclave.

Only an enclave has one. Names and numbers are those of the kernel's header; requests and answers
are CBOR, as AWS's own library writes and reads them. Both calls need root, as AWS's tool does.

Sources:
    https://github.com/torvalds/linux/blob/master/include/uapi/linux/nsm.h
    https://github.com/aws/aws-nitro-enclaves-nsm-api/blob/main/src/api/mod.rs
    random(4), RNDADDENTROPY
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct

import cbor2

DEVICE = "/dev/nsm"
NSM_RESPONSE_MAX_SIZE = 0x3000  # bytes
NSM_IOCTL_RAW = 0xC0200A00  # _IOWR(0x0A, 0x0, struct nsm_raw)
RNDADDENTROPY = 0x40085203  # _IOW('R', 0x03, int[2])


class NsmError(Exception):
    """The module's answer is not what was asked for."""


class _Iovec(ctypes.Structure):  # struct nsm_iovec
    _fields_ = (("addr", ctypes.c_uint64), ("len", ctypes.c_uint64))


class _Raw(ctypes.Structure):  # struct nsm_raw
    _fields_ = (("request", _Iovec), ("response", _Iovec))


def attestation_document(public_key: bytes) -> bytes:
    """Return an attestation document for this enclave and *public_key* (DER).

    Raises:
        NsmError: the module returns none.
        OSError: there is no module, or this process may not use it.
    """
    fields = {"user_data": None, "nonce": None, "public_key": public_key}
    return _asked({"Attestation": fields}, "Attestation", "document")


def seed_kernel() -> None:
    """Give the kernel random bytes from the module, as AWS's tool does before it creates a key.

    An enclave has no devices with random timing, and nitro-cli's kernel does not credit the CPU's
    random numbers.

    Raises:
        NsmError: the module returns none.
        OSError: there is no module, or this process may not do this.
    """
    random = _asked("GetRandom", "GetRandom", "random")
    pool_info = struct.pack(f"ii{len(random)}s", 8 * len(random), len(random), random)
    _ioctl("/dev/random", RNDADDENTROPY, bytearray(pool_info))


def _asked(request: object, kind: str, member: str) -> bytes:
    """Send *request* and return that *member* of the answer, which must be of that *kind*."""
    encoded = cbor2.dumps(request)
    message = ctypes.create_string_buffer(encoded, len(encoded))
    answer = ctypes.create_string_buffer(NSM_RESPONSE_MAX_SIZE)
    raw = _Raw(
        _Iovec(ctypes.addressof(message), len(encoded)),
        _Iovec(ctypes.addressof(answer), NSM_RESPONSE_MAX_SIZE),
    )
    _ioctl(DEVICE, NSM_IOCTL_RAW, raw)
    try:
        response = cbor2.loads(answer.raw[: raw.response.len])
    except (cbor2.CBORError, ValueError, TypeError, OverflowError) as error:
        raise NsmError("its answer is not CBOR") from error
    match response:
        case {"Error": str(code)}:
            raise NsmError(f"it answers {code[:40]}")
        case dict() if isinstance(given := response.get(kind), dict):
            if isinstance(found := given.get(member), bytes) and found:
                return found
    raise NsmError(f"its answer is not of the kind {kind}")


def _ioctl(device: str, request: int, argument: ctypes.Structure | bytearray) -> None:
    descriptor = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, request, argument)
    except OSError as error:
        error.filename = device
        raise
    finally:
        os.close(descriptor)
