"""The rehearsal's enclave: attestation, KMS, kmstool, and who can decrypt."""
