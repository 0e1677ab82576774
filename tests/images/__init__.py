"""Enclave image files: what `measure` prints for them, and what it refuses."""
