"""What a compiled kernel needs, and what each card has."""

from dataclasses import dataclass

KIB = 1024
# Shared memory that one block may have, by compute capability (CUDA C++ Programming Guide, technical specifications).
SHARED_MEMORY = {
    "8.0": 163 * KIB, "8.6": 99 * KIB, "8.9": 99 * KIB, "9.0": 227 * KIB, "10.0": 227 * KIB, "12.0": 99 * KIB,
}  # fmt: skip


@dataclass(frozen=True)
class Specialisation:
    """One compiled kernel: its argument types and constants, and what its blocks and threads need.

    shared: bytes for each block; registers: for each thread; stack: bytes for each thread, of spilled registers.
    """

    kernel: str
    types: str
    constants: str
    capability: str
    warps: int
    shared: int
    registers: int
    stack: int

    @property
    def fits(self) -> bool:
        """Whether the card lets a block have that much shared memory, and no register is spilled."""
        return self.shared <= SHARED_MEMORY[self.capability] and self.stack == 0
