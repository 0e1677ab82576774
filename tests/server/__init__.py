"""The enclave's server and its client, against valid and hostile peers."""
