"""Runs an artifact's life on two AWS accounts, and compares what AWS does with what is expected."""
