"""Reads templates, key policies and Terraform plans from untrusted sources, within limits."""
