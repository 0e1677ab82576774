"""The scripts for people around a deployment."""
