"""The scripts used around a deployment."""
