"""What may be said about pictures that networks represent; imports no torch."""

from dataclasses import dataclass

from deqzoo.data.config import DataConfig, at_least_one


@dataclass
class PictureDataConfig(DataConfig):
    """Three photographs, each to be represented by a network: the pixels are fitted, and there are no others.

    Attributes:
        kind: the kind of data, always ``pictures`` here.
        name: the set, always ``pictures``.
        side: pixels of a side to which the pictures are scaled, from a square about the middle.
        batch_size: pixels per training step, of all pictures at the same places.
        eval_batch_size: pixels per validation or test step.
        repeats: passes over the pixels that make an epoch.
    """

    kind: str = "pictures"
    name: str = "pictures"
    side: int = 64
    batch_size: int = 1024
    eval_batch_size: int = 65_536
    repeats: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(self, "side", "repeats")
