"""The rehearsal's enclave: attestation, KMS, kmstool, and who decrypts in the end."""
