"""Speed and memory compared with the alternatives, as ratios measured in one run."""
