"""What proves that all of it works: a folder for each subject."""
