"""Enclave image files: what `measure` prints of them, and what it refuses."""
