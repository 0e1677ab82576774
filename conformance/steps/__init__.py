"""What is asked of AWS, by subject. `conformance.story` has the order."""
