"""Who decrypted with a key and who changed it, from CloudTrail."""
