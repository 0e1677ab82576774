"""Checks for what would stop a deployment, a build or an enclave, before it does."""
