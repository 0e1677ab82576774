"""The modules of `envelope_decryptor.py`, in the order in which an artifact passes through them.

    format       the header in front of the token, and the token's layout
    kmstool      the data key, from KMS through AWS's kmstool_enclave_cli
    attester     the same without that program, for `--attest nsm`:
      nsm          the system calls for the Nitro security module
      attestation  its document about this enclave
      kms_client   a signed request to KMS, over TLS that is terminated here
      envelope     the data key inside KMS's answer
    release      what both of them share
    token        pass 1: base64 to a private copy, the HMAC over all of it
    reader       pass 2: the zip inside the copy, decrypted where it is read
    directory    the zip's central directory, entry by entry
    names        members' names, as common zip readers interpret them
    archive      the zip's members, all checked before the first is written
    tree         members to files, in a directory that appears whole or not at all
    script       running a script of the tree, and ending it
    private      the private directory for both, and its removal
    options      command-line options, shared with the enclave's server
    errors, signals, programs, workers, system, progress       used by all of them

The package needs `cryptography`; `isal` and `pybase64`, if installed, make it faster. `attester`
also needs `asn1crypto`, `botocore` and `cbor2`; it is imported only if it is chosen.
"""

VERSION = "0.2.0"  # as in pyproject.toml, which is not copied into an image; a test compares them
