"""Checks in advance for what would make a deployment, a build or an enclave fail."""
