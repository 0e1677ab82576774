"""Enclave image files and their measurements, without nitro-cli."""
