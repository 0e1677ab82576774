"""The tests: one folder for each subject."""
