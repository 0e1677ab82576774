"""The system calls for the Nitro security module, and for the kernel's random numbers.

Only an enclave has /dev/nsm, and nothing here has run in one yet. Names and numbers are those of
the kernel's headers; both calls need root, as AWS's tool does.

Sources:
    https://github.com/torvalds/linux/blob/master/include/uapi/linux/nsm.h
    https://github.com/torvalds/linux/blob/master/include/uapi/linux/random.h
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct

NSM_RESPONSE_MAX_SIZE = 0x3000  # bytes
NSM_IOCTL_RAW = 0xC0200A00  # _IOWR(0x0A, 0x0, struct nsm_raw)
RNDADDENTROPY = 0x40085203  # _IOW('R', 0x03, int[2])


class _Iovec(ctypes.Structure):  # struct nsm_iovec
    _fields_ = (("addr", ctypes.c_uint64), ("len", ctypes.c_uint64))


class _Raw(ctypes.Structure):  # struct nsm_raw
    _fields_ = (("request", _Iovec), ("response", _Iovec))


def ask(request: bytes) -> bytes:
    """Send *request* to the module and return its response, both in CBOR.

    Raises:
        OSError: there is no module, or this process may not use it.
    """
    sent = ctypes.create_string_buffer(request, len(request))
    received = ctypes.create_string_buffer(NSM_RESPONSE_MAX_SIZE)
    raw = _Raw(
        _Iovec(ctypes.addressof(sent), len(request)),
        _Iovec(ctypes.addressof(received), NSM_RESPONSE_MAX_SIZE),
    )
    _ioctl("/dev/nsm", NSM_IOCTL_RAW, raw)
    return received.raw[: raw.response.len]


def add_entropy(random: bytes) -> None:
    """Mix *random* into the kernel's random numbers, and credit all of its bits.

    Raises:
        OSError: this process may not do this.
    """
    rand_pool_info = struct.pack(f"ii{len(random)}s", 8 * len(random), len(random), random)
    _ioctl("/dev/random", RNDADDENTROPY, rand_pool_info)


def _ioctl(device: str, request: int, argument: ctypes.Structure | bytes) -> None:
    descriptor = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, request, argument)
    except OSError as error:
        error.filename = device
        raise
    finally:
        os.close(descriptor)
