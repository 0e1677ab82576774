"""The evaluator and the proof, against tables, other evaluators and random policies."""
