"""The rules and `validate`: each rule finds what it should, and nothing else."""
