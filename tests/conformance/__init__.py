"""The conformance run, against the emulator with planted differences from AWS."""
