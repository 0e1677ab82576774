"""What was done with a key, from CloudTrail: every decryption, and who changed what."""
