"""Takes an artifact from source to decryption in two AWS accounts, and reports what differs."""
