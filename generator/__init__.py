"""Renders, validates and explains CloudFormation templates that hand code to a Nitro Enclave."""
