"""The decryptor: valid and hostile artifacts, kmstool's failures, interrupts."""
