"""What a pickle may make vaelens spend: memory by what its objects take in Python, and steps."""

from vaelens.tensors.pickles.refusals import WrongPickleError

MEMORY = 34 * 2**20  # bytes, beside a fifth of the file's size: a checkpoint of 2,500 tensors takes about 6 MB
STEPS = 3_000_000  # opcodes of one file: a second or two. A checkpoint of 10,000 tensors takes 400,000


class Budget:
    """Counts down; nothing is given back, so that no opcode can be repeated without end."""

    def __init__(self, file_size: int) -> None:
        self._memory = self._all = MEMORY + file_size // 5
        self._steps = STEPS

    def spend(self, memory: int) -> None:
        """Raises WrongPickleError when that many bytes aren't left."""
        self._memory -= memory
        if self._memory < 0:
            raise WrongPickleError(f"its table of tensors takes more than {self._all:,} bytes of memory")

    def step(self) -> None:
        """Raises WrongPickleError after the last step."""
        self._steps -= 1
        if self._steps < 0:
            raise WrongPickleError(f"its table of tensors takes more than {STEPS:,} steps")
