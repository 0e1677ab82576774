"""Both templates, deployed to the emulator."""
