"""The image sets: what they are, where they come from, and how their files are called. Imports no torch.

To add one, add its entry to `DATASETS` (and, for a new file format, a reader to ``formats.py``) and a recipe
``data/NAME.yaml``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from deqzoo.data.files import Archive, FileSet
from deqzoo.data.formats import Content, Images, read_cifar10, read_cifar100, read_digits, read_mnist, read_svhn


@dataclass(frozen=True, kw_only=True)
class ImageSet(FileSet):
    """A set of labelled images.

    Attributes:
        shape: (channels, height, width).
        classes: names of the labels 0, 1, ...
        mean, std: of the training images, per channel, for pixels in [0, 1].
        n_train: images published for training; those for validation are taken from them.
        n_test: images published for testing.
        val_size: images held out for validation unless the user says otherwise.
        white: the byte that stands for 1.0.
        read: reader of the files.
    """

    instead: ClassVar[str] = "Use a data set that ships with a dependency: data=digits."

    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    n_train: int
    n_test: int
    val_size: int
    read: Callable[[Content], Images]
    white: int = 255


_DIGITS = tuple("0123456789")
_FINE = (  # classes of CIFAR-100
    "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel "
    "can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur "
    "dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion "
    "lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree "
    "pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea "
    "seal shark shrew skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank "
    "telephone television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm"
)
_OSSCI = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_SVHN = "http://ufldl.stanford.edu/housenumbers/"
_ZALANDO = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"

DATASETS: dict[str, ImageSet] = {
    "digits": ImageSet(
        title="Optical recognition of handwritten digits",
        shape=(1, 8, 8),
        classes=_DIGITS,
        mean=(0.3049,),
        std=(0.3758,),
        n_train=1437,
        n_test=360,
        val_size=180,
        source="https://archive.ics.uci.edu/dataset/80 (ships with scikit-learn)",
        licence="CC BY 4.0",
        read=read_digits,
        white=16,
    ),
    "cifar10": ImageSet(
        title="CIFAR-10",
        shape=(3, 32, 32),
        classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        n_train=50_000,
        n_test=10_000,
        val_size=5_000,
        source="https://www.cs.toronto.edu/~kriz/cifar.html",
        licence="none stated; free for research by custom (cite Krizhevsky, 2009)",
        read=read_cifar10,
        megabytes=170,
        folder="cifar-10-batches-bin",
        files={
            "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
            "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
            "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
            "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
            "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
            "test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d",
        },
        archives=(
            Archive("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530"),
        ),
    ),
    "cifar100": ImageSet(
        title="CIFAR-100",
        shape=(3, 32, 32),
        classes=tuple(_FINE.split()),
        mean=(0.5071, 0.4865, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
        n_train=50_000,
        n_test=10_000,
        val_size=5_000,
        source="https://www.cs.toronto.edu/~kriz/cifar.html",
        licence="none stated; free for research by custom (cite Krizhevsky, 2009)",
        read=read_cifar100,
        megabytes=169,
        folder="cifar-100-binary",
        files={"train.bin": "0cbc93f95cb9fe548c7deb91c5e39f1a", "test.bin": "5ad63b41cd65441383bcdd0d51c9bb6e"},
        archives=(
            Archive("https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8"),
        ),
    ),
    "svhn": ImageSet(
        title="SVHN: house numbers, cropped digits",
        shape=(3, 32, 32),
        classes=_DIGITS,
        mean=(0.4377, 0.4438, 0.4728),
        std=(0.1980, 0.2010, 0.1970),
        n_train=73_257,
        n_test=26_032,
        val_size=5_000,
        source="http://ufldl.stanford.edu/housenumbers/",
        licence="for non-commercial use (cite Netzer et al., 2011)",
        read=read_svhn,
        megabytes=246,
        folder="svhn",
        files={
            "train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373",
            "test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3",
        },
        archives=(
            Archive(_SVHN + "train_32x32.mat", "e26dedcc434d2e4c54c9b2d4a06d8373", saved_as="train_32x32.mat"),
            Archive(_SVHN + "test_32x32.mat", "eb5a983be6a315427106f1b164d9cef3", saved_as="test_32x32.mat"),
        ),
    ),
    "mnist": ImageSet(
        title="MNIST",
        shape=(1, 28, 28),
        classes=_DIGITS,
        mean=(0.1307,),
        std=(0.3081,),
        n_train=60_000,
        n_test=10_000,
        val_size=5_000,
        source="http://yann.lecun.com/exdb/mnist/",
        licence="CC BY-SA 3.0",
        read=read_mnist,
        megabytes=12,
        folder="MNIST/raw",
        files={
            "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
            "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
            "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
            "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
        },
        archives=(
            Archive(_OSSCI + "train-images-idx3-ubyte.gz", "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
            Archive(_OSSCI + "train-labels-idx1-ubyte.gz", "d53e105ee54ea40749a09fcbcd1e9432"),
            Archive(_OSSCI + "t10k-images-idx3-ubyte.gz", "9fb629c4189551a2d022fa330f9573f3"),
            Archive(_OSSCI + "t10k-labels-idx1-ubyte.gz", "ec29112dd5afa0611ce80d1b7f02629c"),
        ),
    ),
    "fashion_mnist": ImageSet(
        title="Fashion-MNIST",
        shape=(1, 28, 28),
        classes=(
            "T-shirt/top",
            "Trouser",
            "Pullover",
            "Dress",
            "Coat",
            "Sandal",
            "Shirt",
            "Sneaker",
            "Bag",
            "Ankle boot",
        ),
        mean=(0.2860,),
        std=(0.3530,),
        n_train=60_000,
        n_test=10_000,
        val_size=5_000,
        source="https://github.com/zalandoresearch/fashion-mnist",
        licence="MIT",
        read=read_mnist,
        megabytes=31,
        folder="FashionMNIST/raw",
        files={
            "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
            "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
            "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
            "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
        },
        archives=(
            Archive(_ZALANDO + "train-images-idx3-ubyte.gz", "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
            Archive(_ZALANDO + "train-labels-idx1-ubyte.gz", "25c81989df183df01b3e8a0aad5dffbe"),
            Archive(_ZALANDO + "t10k-images-idx3-ubyte.gz", "bef4ecab320f06d8554ea6380940ec79"),
            Archive(_ZALANDO + "t10k-labels-idx1-ubyte.gz", "bb300cfdad3c16e7a12a480ee83cd310"),
        ),
    ),
}


def image_set(name: str) -> ImageSet:
    """The set of this name; an unknown name is a ValueError that lists the known ones."""
    if name not in DATASETS:
        raise ValueError(f"there is no data set {name!r}; valid names are {', '.join(sorted(DATASETS))}")
    return DATASETS[name]


def rows() -> dict[str, list[str]]:
    """The sets' rows of the table of `deqzoo.data.table`."""
    table = {}
    for name, spec in DATASETS.items():
        parts = f"{spec.n_train - spec.val_size:,} / {spec.val_size:,} / {spec.n_test:,}"
        size = f"{spec.megabytes} MB" if spec.archives else "none"
        code = f"[`{spec.read.__name__}`](../deqzoo/data/formats.py)"
        sample, classes = "x".join(map(str, spec.shape)), str(len(spec.classes))
        table[name] = [spec.title, sample, classes, parts, size, code, spec.source, spec.licence]
    return table
