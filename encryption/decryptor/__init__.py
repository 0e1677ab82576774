"""The rooms of `envelope_decryptor.py`, in the order in which an artifact passes them.

    format       the header in front of the token, and the token's layout
    kmstool      the data key, from KMS by way of AWS's kmstool_enclave_cli
    attester     the same without that program: what `--attest nsm` chooses, made of
      nsm          the Nitro security module's document about this enclave
      kms_client   a signed request to KMS, over TLS that ends here
      envelope     the data key inside KMS's answer
    release      what both of them share
    token        pass 1: base64 to a private copy, the HMAC over all of it
    reader       pass 2: the zip inside the copy, decrypted where it is read
    directory    the zip's central directory, entry by entry
    names        what a member is called, as common readers of zips read it
    archive      the zip's members, every one of them checked before one is written
    tree         members to files, in a directory that appears whole or not at all
    script       a script of the tree, run and ended
    private      the directory in which both happen, and that nothing of it is left
    options      the command line's, which the enclave's server shares
    errors, signals, programs, workers, system, progress       what all of them use

The package needs `cryptography`; `isal` and `pybase64` make it fast where they are installed.
`attester` needs `asn1crypto`, `botocore` and `cbor2` besides; it is imported where it is chosen.
"""

VERSION = "0.1.0"  # as in pyproject.toml, which does not travel into an image; a test compares
