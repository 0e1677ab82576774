"""The rules and `validate`: each rule finds what it is for, and nothing else."""
