"""What a recipe may say of stays in intensive care; imports no torch."""

from dataclasses import dataclass, field

from deqzoo.data.config import DataConfig, at_least_one


@dataclass
class StayDataConfig(DataConfig):
    """Stays in intensive care. The run's seed draws which of them train, validate and test.

    Attributes:
        kind: the kind of data, always ``stays`` here.
        name: the set, always ``physionet2012``.
        root: folder of the data; None: the environment's ``DEQZOO_DATA``, else ``~/.cache/deqzoo``.
        sets: ``a``, ``b`` or both, of 4,000 stays each.
        minutes: between two times; what was measured nearer to one of them counts as of it, by its mean.
        test_fraction: of the stays.
        val_fraction: of those that are not for testing.
        download: fetch what is missing; False: an error says what is missing.
        verify: whether the sets must be as large as those that were published.
    """

    kind: str = "stays"
    name: str = "physionet2012"
    batch_size: int = 100
    eval_batch_size: int = 400
    root: str | None = None
    sets: list[str] = field(default_factory=lambda: ["a"])
    minutes: int = 60
    test_fraction: float = 0.2
    val_fraction: float = 0.1
    download: bool = True
    verify: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(self, "minutes")
        if list(self.sets) not in (["a"], ["b"], ["a", "b"]):
            raise ValueError(f"data.sets must be [a], [b] or [a,b], got {list(self.sets)}")
        if 48 * 60 % self.minutes:
            raise ValueError(f"data.minutes must divide 48 hours, got {self.minutes}")
        for name in ("test_fraction", "val_fraction"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"data.{name} must lie in (0, 1), got {getattr(self, name)}")
