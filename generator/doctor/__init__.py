"""What would stop a deployment, a build or an enclave, found before it does."""
