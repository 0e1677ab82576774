"""The encryptor: the artifact's format, what it refuses, how it fails, what it costs."""
