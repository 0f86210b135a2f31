"""Errors that tell a user what to do."""


class ConfigError(ValueError):
    """A setting that cannot be; the message names the valid ones."""


def written_for_users(error: Exception) -> bool:
    """Whether it is one of our own errors, whose message alone tells what to do."""
    return type(error).__module__.startswith("deqzoo.")


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be found, trusted or used; the message says what to do."""
