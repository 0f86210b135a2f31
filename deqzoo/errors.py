"""Errors that tell a user what to do."""


class ConfigError(ValueError):
    """A setting that cannot be; the message names the valid ones."""


def written_for_users(error: Exception) -> bool:
    """Whether it is one of our own errors, whose message alone tells what to do."""
    return type(error).__module__.startswith("deqzoo.")


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be found, trusted or used; the message says what to do."""


class Stopped(BaseException):
    """A run was told to end, by Ctrl-C or SIGTERM.

    Attributes:
        signum: the signal.
        told: what there is to say to the user.
    """

    def __init__(self, signum: int, told: str = "Stopped.") -> None:
        super().__init__(told)
        self.signum, self.told = signum, told

    @property
    def code(self) -> int:
        """Exit code of a process that this signal ends: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + self.signum
