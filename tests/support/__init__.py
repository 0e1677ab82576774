"""Shared by tests of several subjects: artifacts, KMS and kmstool, image files, processes."""
