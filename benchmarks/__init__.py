"""How fast and how small, against the alternatives: ratios measured in one run."""
