"""Few-shot episodes: some classes, a few images of each to learn from, and more to be told apart."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Generator, Tensor

from deqzoo.data import cifar_fs, omniglot
from deqzoo.data.augment import augment_images
from deqzoo.data.config import Augment, DataConfig, EpisodeDataConfig
from deqzoo.data.files import Archive, FileSet, data_root, fetch
from deqzoo.data.info import FewShotInfo
from deqzoo.data.loader import TensorLoader, Transform, generator
from deqzoo.data.module import TensorData
from deqzoo.errors import ConfigError
from deqzoo.implicit.sending import send


class Draw(NamedTuple):
    """Which images an episode is made of.

    Attributes:
        classes: (ways,), rows of the images.
        turns: (ways,), quarter turns of all images of a class.
        support: (ways, shots), places in a class.
        queries: (ways, queries), others.
    """

    classes: Tensor
    turns: Tensor
    support: Tensor
    queries: Tensor


def draw_episode(
    classes: Tensor, per_class: int, ways: int, shots: int, queries: int, rotations: bool, random: Generator
) -> Draw:
    """An episode of classes drawn without replacement, and of different images of each.

    With ``rotations`` a class turned by 90, 180 or 270 degrees is another class.

    >>> draw = draw_episode(torch.arange(9), 20, ways=5, shots=1, queries=3, rotations=True, random=Generator())
    >>> draw.support.shape, draw.queries.shape
    (torch.Size([5, 1]), torch.Size([5, 3]))
    """
    turns = 4 if rotations else 1
    if ways > turns * len(classes) or shots + queries > per_class:
        raise ConfigError(
            f"{ways} ways of {shots} + {queries} images do not fit {turns * len(classes)} classes of {per_class}: "
            "lower data.ways, data.shots or data.queries"
        )
    chosen = torch.randperm(turns * len(classes), generator=random)[:ways]
    # One order per character, whatever its turn: a drawing never is support under one label and query under another.
    characters, place = torch.unique(chosen // turns, return_inverse=True)
    images = torch.rand(len(characters), per_class, generator=random).argsort(1)[place]
    return Draw(classes[chosen // turns], chosen % turns, images[:, :shots], images[:, shots : shots + queries])


@dataclass(frozen=True, kw_only=True)
class EpisodeSet(FileSet):
    """A set of images by class, and which classes are to train, validate and test on.

    Attributes:
        read: folder -> images (classes, per class, channels, height, width) uint8, and the classes' names.
        split: names -> the classes of "train", "val" and "test".
        channels, size: of an image.
        mean, std: a channel, for pixels in [0, 1].
        per_class: images of a class.
        counts: classes of the three parts.
        rotations: quarter turns make new classes, in training, where the options do not say otherwise.
    """

    instead: ClassVar[str] = "Use tasks that are drawn: data=sinusoid."

    read: Callable[[Path], tuple[Tensor, list[str]]]
    split: Callable[[list[str]], dict[str, Tensor]]
    channels: int
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    per_class: int
    counts: tuple[int, int, int]
    rotations: bool = False


def _split_at_random(names: list[str]) -> dict[str, Tensor]:
    """1,200 characters to train on, 100 of them held out for validation, and 423 to test on; the same always."""
    order = torch.randperm(len(names), generator=generator(0))
    return dict(zip(("train", "val", "test"), order.split([1100, 100, len(names) - 1200]), strict=True))


def _split_by_name(names: list[str]) -> dict[str, Tensor]:
    held_out = {"val": cifar_fs.VALIDATION, "test": cifar_fs.TEST}
    chosen = {"train": set(names) - held_out["val"] - held_out["test"], **held_out}
    return {part: torch.tensor([i for i, name in enumerate(names) if name in chosen[part]]) for part in chosen}


_BRENDEN = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python/"
EPISODE_SETS: dict[str, EpisodeSet] = {
    "omniglot": EpisodeSet(
        title="Omniglot, 28 x 28: few-shot episodes",
        source="https://github.com/brendenlake/omniglot",
        licence="MIT",
        megabytes=15,
        folder="omniglot-py",
        files={f"{name}.zip": None for name in omniglot.ARCHIVES},
        archives=(
            Archive(_BRENDEN + "images_background.zip", "68d2efa1b9178cc56df9314c21c6e718", "images_background.zip"),
            Archive(_BRENDEN + "images_evaluation.zip", "6b91aef0f799c5bb55b94e3f2daec811", "images_evaluation.zip"),
        ),
        read=omniglot.read_omniglot,
        split=_split_at_random,
        channels=1,
        size=28,
        mean=(0.9199,),
        std=(0.2277,),
        per_class=20,
        counts=(1100, 100, 423),
        rotations=True,
    ),
    "cifar_fs": EpisodeSet(
        title="CIFAR-FS: few-shot episodes of CIFAR-100",
        source="https://www.cs.toronto.edu/~kriz/cifar.html; classes: "
        "[arXiv:1805.08136](https://arxiv.org/abs/1805.08136)",
        licence="none stated; free for research by custom (cite Krizhevsky, 2009)",
        megabytes=169,
        folder="cifar-100-binary",
        files=dict.fromkeys(cifar_fs.FILES),
        archives=(
            Archive("https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8"),
        ),
        read=cifar_fs.read_cifar_fs,
        split=_split_by_name,
        channels=3,
        size=32,
        mean=(0.5088, 0.4917, 0.4437),
        std=(0.2674, 0.2564, 0.2772),
        per_class=600,
        counts=(64, 16, 20),
    ),
}


class EpisodeData(TensorData):
    """Few-shot episodes, each with classes and images of its own.

    A batch is support images (B, ways * shots, C, H, W) float32 in [0, 1] and labels (B, ways * shots) int64, query
    images (B, ways * queries, C, H, W) and labels. Labels are the classes' places in their episode. A training episode
    follows from (seed, epoch, its number) alone, whatever the number of processes; those for validation and test are
    the same always.

    Args:
        name: the set; `EPISODE_SETS` has them.
        seed: of the training episodes.
        options: the fields of `deqzoo.data.config.EpisodeDataConfig`.

    After `setup`, ``classes`` holds the classes of "train", "val" and "test", which have none in common.
    """

    Config: ClassVar[type[DataConfig]] = EpisodeDataConfig

    def __init__(self, name: str, *, seed: int = 0, **options: Any) -> None:
        super().__init__(name, seed=seed, **options)
        if name not in EPISODE_SETS:
            raise ValueError(f"there is no set of episodes {name!r}; valid names are {', '.join(sorted(EPISODE_SETS))}")
        self.spec = EPISODE_SETS[name]
        self.classes: dict[str, Tensor] = {}
        queries = max(self.options.queries, self.options.train_queries or 0)
        wanted, ways = self.options.shots + queries, self.options.ways
        if wanted > self.spec.per_class or ways > min(self.spec.counts):
            raise ValueError(
                f"data.ways={ways} of data.shots + data.queries={wanted} images: {self.spec.title} has "
                f"{min(self.spec.counts)} classes in its smallest part, with {self.spec.per_class} images each"
            )

    @property
    def info(self) -> FewShotInfo:
        """Shape and statistics of the images; ways and shots."""
        spec, options = self.spec, self.options
        return FewShotInfo(spec.channels, (spec.size, spec.size), spec.mean, spec.std, options.ways, options.shots)

    def prepare_data(self) -> None:
        """Download what is missing (Lightning calls this in one process of a machine)."""
        if not self._unpacked():
            fetch(self.spec, self.options.root, download=self.options.download)

    def setup(self, stage: str | None = None) -> None:
        """Read the files and split the classes."""
        if self.tensors is not None:
            return
        folder = data_root(self.options.root) / self.spec.folder
        if not self._unpacked():
            folder = fetch(self.spec, self.options.root, download=False)
        images, names = self.spec.read(folder)
        self.tensors, self.classes = (images,), self.spec.split(names)
        options = self.options
        episodes = {"train": options.train_episodes, "val": options.val_episodes, "test": options.test_episodes}
        self.parts = {part: torch.arange(count) for part, count in episodes.items()}

    def make_loader(self, part: str, batch_size: int, train: bool, **options: Any) -> "EpisodeLoader":
        """Batches of episodes; new ones each epoch if ``train``."""
        assert self.tensors is not None
        chosen = self.options
        queries = chosen.train_queries if train and chosen.train_queries else chosen.queries
        rotations = self.spec.rotations if chosen.rotations is None else chosen.rotations
        return EpisodeLoader(
            self.tensors,
            self.parts[part],
            batch_size,
            shuffle=train,
            classes=self.classes[part],
            key=("train", "val", "test").index(part),
            shape=(chosen.ways, chosen.shots, queries),
            rotations=rotations and part == "train",
            transform=self._augment if train and chosen.augment != Augment() else None,
            **options,
        )

    def _augment(self, images: Tensor, random: Generator) -> Tensor:
        return augment_images(images, self.options.augment, random, torch.tensor(self.spec.mean))

    def _unpacked(self) -> bool:
        """Whether the archives of the set stand there unpacked, as torchvision leaves them."""
        folder = data_root(self.options.root) / self.spec.folder
        return all((folder / name.removesuffix(".zip")).exists() for name in self.spec.files)


class EpisodeLoader(TensorLoader):
    """Batches of episodes.

    Args:
        tensors: the images, (classes, per class, C, H, W) uint8.
        indices: numbers of the episodes.
        batch_size, options: as `TensorLoader` has them.
        classes: those of the part.
        key: of the part.
        shape: ways, shots, queries.
        rotations: see `draw_episode`.
        transform: applied to the images of an episode, with a generator of its own: its random numbers are a function
            of (seed, epoch, the episode's number).
    """

    def __init__(
        self,
        *args: Any,
        classes: Tensor,
        key: int,
        shape: tuple[int, int, int],
        rotations: bool,
        transform: Transform | None = None,
        **options: Any,
    ) -> None:
        self.classes, self.key, self.shape, self.rotations = classes, key, shape, rotations
        self.transform = transform
        super().__init__(*args, **options)
        self.place = torch.device("cpu")  # an episode is drawn on the host, from its number

    def draw(self, number: int) -> Draw:
        """The episode of this number in the present epoch."""
        seed, epoch = (self.seed, self.epoch) if self.shuffle else (0, 0)
        random, per_class = generator(seed, self.key, epoch, number), self.tensors[0].shape[1]
        return draw_episode(self.classes, per_class, *self.shape, self.rotations, random)

    def _make_batch(self, indices: Tensor) -> tuple[Tensor, ...]:
        drawn = [self.draw(int(number)) for number in indices]
        classes, turns = (torch.stack([getattr(d, name) for d in drawn]) for name in ("classes", "turns"))
        places = torch.stack([torch.cat([d.support, d.queries], 1) for d in drawn])
        images = self._images(classes, turns, places)
        if self.transform is not None:
            images = torch.stack(
                [self._changed(of_one, number) for of_one, number in zip(images, indices.tolist(), strict=True)]
            )
        ways, shots, queries = self.shape
        batch: list[Tensor] = []
        for part in images.split([shots, queries], 2):
            labels = torch.arange(ways, device=self.device).repeat_interleave(part.shape[2]).expand(len(drawn), -1)
            batch += [part.flatten(1, 2), labels]
        return tuple(batch)

    def _changed(self, images: Tensor, number: int) -> Tensor:
        """Images (ways, n, C, H, W) of an episode, by the transform."""
        assert self.transform is not None
        random = generator(self.seed, self.key, self.epoch, number, 1)  # another stream than that of `draw`
        return self.transform(images.flatten(0, 1), random).unflatten(0, images.shape[:2])

    def _images(self, classes: Tensor, turns: Tensor, places: Tensor) -> Tensor:
        """(B, ways, n, C, H, W) of classes and turns (B, ways) and places (B, ways, n)."""
        stored = self.tensors[0]
        numbers = send(classes[..., None] * stored.shape[1] + places, stored.device)  # all indices in one copy
        chosen = send(stored.flatten(0, 1)[numbers], self.device)
        turned = send(turns, self.device)[..., None, None, None, None]
        for turn in range(1, 4 if self.rotations else 1):
            chosen = torch.where(turned == turn, torch.rot90(chosen, turn, (-2, -1)), chosen)
        return chosen.float() / 255


def rows() -> dict[str, list[str]]:
    """The sets' rows of the table of `deqzoo.data.table`."""
    table = {}
    for name, spec in EPISODE_SETS.items():
        counts = " / ".join(f"{count:,}" for count in spec.counts)
        code = f"[`{spec.read.__name__}`](../deqzoo/data/{name}.py)"
        sample = f"{spec.channels}x{spec.size}x{spec.size}"
        classes = f"{sum(spec.counts):,}"
        table[name] = [
            spec.title,
            sample,
            classes,
            f"{counts} classes",
            f"{spec.megabytes} MB",
            code,
            spec.source,
            spec.licence,
        ]
    return table
