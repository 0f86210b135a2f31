"""What the files of ``data/`` may say: one dataclass for each kind of data; imports no torch."""

from dataclasses import dataclass, field


@dataclass
class Augment:
    """Random changes to training images; 0 or False leaves one out.

    They are applied in the order of the fields, on the device, each image with its own draw.

    >>> Augment(rotate=10.0, padding_mode="border")  # for drawings on white paper
    Augment(rotate=10.0, translate=0.0, padding_mode='border', crop=0, flip=False, alternating_flip=False, cutout=0)

    Attributes:
        rotate: largest angle, in degrees; the angle is uniform in [-rotate, rotate].
        translate: largest shift along each axis, in pixels and fractions of them (bilinear, with ``rotate``).
        padding_mode: what these two find outside the image: ``zeros``, black, or ``border``, the edge repeated.
        crop: pixels by which each side is padded, by reflection, before a window of the old size is cut at random.
        flip: mirror left and right with probability 1/2.
        alternating_flip: mirror left and right in every second epoch, half of the images in the first.
        cutout: side, in pixels, of a square painted in the set's mean colour (arXiv:1708.04552).
    """

    rotate: float = 0.0
    translate: float = 0.0
    padding_mode: str = "zeros"
    crop: int = 0
    flip: bool = False
    alternating_flip: bool = False
    cutout: int = 0

    def __post_init__(self) -> None:
        if self.flip and self.alternating_flip:
            raise ValueError("augment.flip and augment.alternating_flip are two ways of the same: choose one")
        for name in ("rotate", "translate", "crop", "cutout"):
            if getattr(self, name) < 0:
                raise ValueError(f"augment.{name} must not be negative, got {getattr(self, name)}")
        if self.padding_mode not in ("zeros", "border"):
            raise ValueError(f"augment.padding_mode must be zeros or border, got {self.padding_mode!r}")


def at_least_one(settings: object, *names: str) -> None:
    """The settings of these names must be positive, or None where that is allowed."""
    for name in names:
        value = getattr(settings, name)
        if value is not None and value < 1:
            raise ValueError(f"data.{name} must be at least 1, got {value}")


@dataclass
class DataConfig:
    """What every kind of data has.

    Attributes:
        name: the set.
        batch_size: samples per training step (on each device).
        eval_batch_size: samples a validation or test step.
    """

    name: str
    batch_size: int = 128
    eval_batch_size: int = 1000

    def __post_init__(self) -> None:
        at_least_one(self, "batch_size", "eval_batch_size")


@dataclass
class ImageDataConfig(DataConfig):
    """A set of labelled images and how it is cut into batches.

    Attributes:
        kind: the kind of data, always ``images`` here.
        name: the set, a name of :data:`deqzoo.data.registry.DATASETS`.
        root: folder of the data; None: the environment's ``DEQZOO_DATA``, else ``~/.cache/deqzoo``.
        val_size: images of the training set held out for validation; None: the set's own number.
        augment: random changes to the training images.
        download: fetch what is missing; False: an error says what is missing.
        device_cache: keep all images on the training device when they fit.
    """

    kind: str = "images"
    name: str = "digits"
    root: str | None = None
    val_size: int | None = None
    augment: Augment = field(default_factory=Augment)
    download: bool = True
    device_cache: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.val_size is not None and self.val_size < 0:
            raise ValueError(f"data.val_size must not be negative, got {self.val_size}")


@dataclass
class ImageFolderConfig(ImageDataConfig):
    """Images of the user's in a folder per class.

    Attributes:
        kind: the kind of data, always ``image_folder`` here.
        name: the set, always ``folder``.
        root: the folder; it has no default.
        size: side in pixels to which the images are scaled, and cut to a square about the middle.
        channels: 3: colour; 1: grey.
    """

    kind: str = "image_folder"
    name: str = "folder"
    size: int = 32
    channels: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(self, "size")
        if self.channels not in (1, 3):
            raise ValueError(f"data.channels must be 3 (colour) or 1 (grey), got {self.channels}")


@dataclass
class PointDataConfig(DataConfig):
    """A set of labelled points, drawn when it is set up: the same ones always.

    Attributes:
        kind: the kind of data, always ``points`` here.
        name: the set, a name of :data:`deqzoo.data.points.POINT_SETS`.
        dim: dimension of the space.
        train_size, val_size, test_size: points of each part.
    """

    kind: str = "points"
    name: str = "spheres"
    dim: int = 2
    train_size: int = 3000
    val_size: int = 1000
    test_size: int = 10_000

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(self, "dim", "train_size", "val_size", "test_size")


@dataclass
class OrbitDataConfig(DataConfig):
    """Orbits of a mechanical system, simulated when they are set up: the same ones always.

    Attributes:
        kind: the kind of data, always ``orbits`` here.
        name: the system, a name of :data:`deqzoo.data.mechanics.MECHANICS`.
        spacing: time between two states.
        window: states of a training sample, beside the first one.
        repeats: passes over the training set that count as one epoch.
    """

    kind: str = "orbits"
    name: str = "free_pendulum"
    spacing: float = 0.2
    window: int = 3
    repeats: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(self, "window", "repeats")
        if self.spacing <= 0:
            raise ValueError(f"data.spacing must be positive, got {self.spacing}")


@dataclass
class DensityDataConfig(DataConfig):
    """Points drawn from a known density when they are set up: the same ones always.

    Attributes:
        kind: the kind of data, always ``density`` here.
        name: the density, a name of :data:`deqzoo.data.densities.DENSITIES`.
        train_size, val_size, test_size: points of each part.
    """

    kind: str = "density"
    name: str = "8gaussians"
    batch_size: int = 256
    eval_batch_size: int = 5000
    train_size: int = 1_000_000
    val_size: int = 5000
    test_size: int = 20_000

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(self, "train_size", "val_size", "test_size")


@dataclass
class SeriesDataConfig(DataConfig):
    """A set of series that are observed with noise, gaps, or only in part.

    Attributes:
        kind: the kind of data, always ``series`` here.
        name: the set, a name of :data:`deqzoo.data.series.SERIES_SETS`.
        repeats: passes over the training series that make an epoch (an epoch costs time of its own).
    """

    kind: str = "series"
    name: str = "spirals"
    repeats: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(self, "repeats")


@dataclass
class LabelledSeriesDataConfig(DataConfig):
    """A set of labelled series, of which a part of the values is dropped at random, once.

    Attributes:
        kind: the kind of data, always ``labelled_series`` here.
        name: the set, a name of :data:`deqzoo.data.labelled_series.LABELLED_SERIES_SETS`.
        dropped: fraction of the values that are never shown, in training, validation or test.
        repeats: passes over the training series that make an epoch (an epoch costs time of its own).
    """

    kind: str = "labelled_series"
    name: str = "vowel_speakers"
    batch_size: int = 75
    dropped: float = 0.3
    repeats: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(self, "repeats")
        if not 0 <= self.dropped < 1:
            raise ValueError(f"data.dropped must lie in [0, 1), got {self.dropped}")


@dataclass
class TextDataConfig(DataConfig):
    """A text and how it is cut into windows.

    Attributes:
        kind: the kind of data, always ``text`` here.
        name: the text, a name of :data:`deqzoo.data.text_sets.TEXT_SETS`.
        root: folder of the data; None: the environment's ``DEQZOO_DATA``, else ``~/.cache/deqzoo``.
        file: path of a text of your own (with ``name="text_file"`` only).
        length: tokens of a window.
        context: tokens at the head of a validation or test window that are read there but scored in the one before.
        min_count: rarer tokens of the training part count as unknown.
        download: fetch what is missing; False: an error says what is missing.
    """

    kind: str = "text"
    name: str = "shakespeare"
    root: str | None = None
    file: str | None = None
    length: int = 128
    context: int = 64
    min_count: int = 1
    download: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(self, "length", "min_count")
        if not 0 <= self.context < self.length:
            raise ValueError(f"data.context={self.context} must lie in [0, data.length={self.length})")


@dataclass
class ChainDataConfig(DataConfig):
    """A graph of chains whose nodes are to be classified: the same one always.

    A batch is the whole graph and some of its labelled nodes: ``batch_size`` of them.

    Attributes:
        kind: the kind of data, always ``chains`` here.
        name: the set, always ``chains``.
        length: nodes of a chain.
        classes: number of them.
        chains_per_class: number of chains of each class.
        features: of a node, at least the number of classes.
        noise: the features of all nodes are uniform in [-noise, noise], but for the class of a chain's first node.
        train_size, val_size: labelled nodes for training and validation, drawn from all; the others are for testing.
        repeats: passes over the training nodes that make an epoch.
    """

    kind: str = "chains"
    name: str = "chains"
    batch_size: int = 20
    eval_batch_size: int = 10_000
    length: int = 100
    classes: int = 2
    chains_per_class: int = 20
    features: int = 100
    noise: float = 0.0
    train_size: int = 20
    val_size: int = 100
    repeats: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(self, "length", "chains_per_class", "train_size", "repeats")
        if not 2 <= self.classes <= self.features:
            raise ValueError(f"data.classes={self.classes} must lie between 2 and data.features={self.features}")
        if self.val_size < 0 or self.noise < 0:
            raise ValueError(f"data.val_size and data.noise must not be negative, got {self.val_size}, {self.noise}")
        nodes = self.length * self.classes * self.chains_per_class
        if self.train_size + self.val_size >= nodes:
            raise ValueError(
                f"data.train_size={self.train_size} and val_size={self.val_size} leave none of {nodes} nodes to test"
            )


@dataclass
class SinusoidDataConfig(DataConfig):
    """Regression tasks, each a sinusoid of which some points are given; the same ones always.

    Attributes:
        kind: the kind of data, always ``sinusoids`` here.
        name: the set, always ``sinusoid``.
        batch_size, eval_batch_size: tasks per step.
        shots: points that are given.
        queries: points that are asked for.
        train_size, val_size, test_size: tasks of each part.
    """

    kind: str = "sinusoids"
    name: str = "sinusoid"
    batch_size: int = 25
    eval_batch_size: int = 100
    shots: int = 10
    queries: int = 20
    train_size: int = 25_000
    val_size: int = 200
    test_size: int = 600

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(self, "shots", "queries", "train_size", "val_size", "test_size")


@dataclass
class EpisodeDataConfig(DataConfig):
    """Few-shot episodes of a set of images by class.

    Attributes:
        kind: the kind of data, always ``episodes`` here.
        name: the set, a name of :data:`deqzoo.data.episodes.EPISODE_SETS`.
        batch_size, eval_batch_size: episodes per step.
        root: folder of the data; None: the environment's ``DEQZOO_DATA``, else ``~/.cache/deqzoo``.
        ways: classes of an episode.
        shots: images of each class to learn from.
        queries: further ones of each, to be told apart.
        train_queries: number of them in training; None: `queries`.
        train_episodes: of an epoch.
        val_episodes, test_episodes: the same ones always.
        rotations: in training, a class turned by 90, 180 or 270 degrees is another class; None: where it is the
            custom, with Omniglot.
        augment: random changes to the training images, of support and queries alike.
        download: fetch what is missing; False: an error says what is missing.
        device_cache: keep all images on the training device when they fit.
    """

    kind: str = "episodes"
    name: str = "omniglot"
    batch_size: int = 16
    eval_batch_size: int = 20
    root: str | None = None
    ways: int = 5
    shots: int = 1
    queries: int = 15
    train_queries: int | None = None
    train_episodes: int = 16_000
    val_episodes: int = 100
    test_episodes: int = 600
    rotations: bool | None = None
    augment: Augment = field(default_factory=Augment)
    download: bool = True
    device_cache: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(self, "shots", "queries", "train_queries", "train_episodes", "val_episodes", "test_episodes")
        if self.ways < 2:
            raise ValueError(f"data.ways must be at least 2, got {self.ways}")
        if self.augment.alternating_flip:
            raise ValueError(
                "data.augment.alternating_flip is for images that come once an epoch, and those of episodes are drawn: "
                "take data.augment.flip"
            )


@dataclass
class FewImageDataConfig(DataConfig):
    """A few labelled images to train on, and others to learn hyperparameters by.

    Attributes:
        kind: the kind of data, always ``few_images`` here.
        name: the set, ``few_`` and a name of :data:`deqzoo.data.registry.DATASETS`.
        root: folder of the data; None: the environment's ``DEQZOO_DATA``, else ``~/.cache/deqzoo``.
        train_size: training images, drawn by the run's seed; all of them are a batch.
        val_size: images for the hyperparameters; all of them are in each batch, too.
        repeats: steps that make an epoch.
        download: fetch what is missing; False: an error says what is missing.
        device_cache: keep all images on the training device when they fit.
    """

    kind: str = "few_images"
    name: str = "few_mnist"
    root: str | None = None
    train_size: int = 1000
    val_size: int = 5000
    repeats: int = 20
    download: bool = True
    device_cache: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(self, "train_size", "val_size", "repeats")


@dataclass
class NoisyImageDataConfig(FewImageDataConfig):
    """Labelled images, many of them with a wrong label, and clean ones to judge by.

    Attributes:
        kind: the kind of data, always ``noisy_images`` here.
        name: the set, ``noisy_`` and a name of :data:`deqzoo.data.registry.DATASETS`.
        root: folder of the data; None: the environment's ``DEQZOO_DATA``, else ``~/.cache/deqzoo``.
        train_size: images whose labels may be wrong; all of them are a batch.
        val_size: clean images.
        corrupted: fraction of the former that have a wrong label.
        repeats: steps that make an epoch.
        download: fetch what is missing; False: an error says what is missing.
        device_cache: keep all images on the training device when they fit.
    """

    kind: str = "noisy_images"
    name: str = "noisy_mnist"
    train_size: int = 5000
    corrupted: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.corrupted < 1:
            raise ValueError(f"data.corrupted must lie in [0, 1), got {self.corrupted}")
