"""The steps, by subject. `conformance.sequence` has the order."""
