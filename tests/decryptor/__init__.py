"""The decryptor: honest artifacts and hostile ones, kmstool's failures, what interrupts it."""
