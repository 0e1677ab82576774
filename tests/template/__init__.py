"""What `render` writes: the contract, the limits, the embedded program."""
