"""The enclave's server and its client, honest and hostile."""
