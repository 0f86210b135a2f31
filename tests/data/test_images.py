"""The data module: fixed splits, the official file formats, and what goes into a batch."""

import hashlib
import io
import json
import struct
from dataclasses import replace

import numpy as np
import pytest
import scipy.io
import torch
from lightning import LightningModule, Trainer

from deqzoo.data import DATASETS, Augment, DataNotFoundError, ImageData
from deqzoo.data.augment import augment_images
from deqzoo.data.loader import generator
from deqzoo.errors import ConfigError


def md5(data):
    return hashlib.md5(data).hexdigest()


def batches(loader):
    images, labels = zip(*loader, strict=True)
    return torch.cat(images), torch.cat(labels)


@pytest.fixture(scope="module")
def digits():
    data = ImageData("digits", augment=Augment(crop=1))
    data.prepare_data()
    data.setup()
    return data


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A function that writes a set's files under a root and lets the registry expect them."""

    def publish(name, files):
        spec = replace(DATASETS[name], files={file: md5(data) for file, data in files.items()})
        monkeypatch.setitem(DATASETS, name, spec)
        (tmp_path / spec.folder).mkdir(parents=True)
        for file, data in files.items():
            (tmp_path / spec.folder / file).write_bytes(data)
        return tmp_path

    return publish


def test_digits_split_is_the_one_that_shipped_checkpoints_were_tested_on(digits):
    fingerprints = {part: md5(indices.numpy().tobytes())[:8] for part, indices in digits.parts.items()}
    assert {part: len(indices) for part, indices in digits.parts.items()} == {
        "train": 1257,
        "val": 180,
        "test": 360,
    }
    assert fingerprints == {"train": "a1b26e4b", "val": "627d3e44", "test": "0bd339e2"}


def test_info_is_what_a_network_must_know_of_the_images(digits):
    info = digits.info
    assert (info.in_channels, info.size, info.levels) == (1, (8, 8), 17)
    assert info.classes == tuple("0123456789")
    (mean,), (std,) = info.mean, info.std
    assert 0 < mean < 1
    assert 0 < std < 1


def test_info_reads_what_it_wrote_and_tells_of_wrong_keys(digits):
    plain = json.loads(json.dumps(digits.info.to_json()))
    assert type(digits.info).from_json(plain) == digits.info
    for wrong, told in ((plain | {"colour": 1}, "colour"), ({k: v for k, v in plain.items() if k != "mean"}, "mean")):
        with pytest.raises(ConfigError, match=f"unknown or missing keys: {told};"):
            type(digits.info).from_json(wrong)


def test_parts_are_disjoint_and_hold_every_class_in_proportion(digits):
    parts = [digits.parts[part] for part in ("train", "val", "test")]
    assert torch.cat(parts).unique().numel() == 1797
    for indices in parts:
        share = torch.bincount(digits.labels[indices]) / len(indices)
        assert (share - torch.bincount(digits.labels) / 1797).abs().max() < 0.005


def test_seed_changes_the_order_and_not_the_split(digits):
    other = ImageData("digits", seed=1)
    other.setup()
    assert all(torch.equal(digits.parts[part], other.parts[part]) for part in digits.parts)
    (_, ours), (_, theirs) = next(iter(digits.train_dataloader())), next(iter(other.train_dataloader()))
    assert not torch.equal(ours, theirs)


def test_evaluation_sees_each_image_once_unchanged(digits):
    images, labels = batches(digits.test_dataloader())
    assert len(labels) == 360
    torch.testing.assert_close(images, digits.images[digits.parts["test"]].float() / 16)
    assert torch.equal(labels, digits.labels[digits.parts["test"]])
    assert len(batches(digits.val_dataloader())[1]) == 180


@pytest.mark.parametrize("options", [{"rotate": 9.0}, {"translate": 1.0}, {"crop": 1}, {"flip": True}, {"cutout": 3}])
def test_training_images_are_augmented_and_others_are_not(options):
    plain, changed = (ImageData("digits", seed=3, augment=augment) for augment in (Augment(), Augment(**options)))
    plain.setup()
    changed.setup()
    pairs = zip(plain.train_dataloader(), changed.train_dataloader(), strict=True)
    for number, ((images, labels), (augmented, same)) in enumerate(pairs, start=1):
        assert torch.equal(labels, same)
        assert not torch.equal(images, augmented)
        expected = augment_images(images, Augment(**options), generator(3, 0, number, 0), torch.tensor(plain.mean))
        assert torch.equal(augmented, expected)
    for part in ("val_dataloader", "test_dataloader"):
        images, augmented = (batches(getattr(data, part)())[0] for data in (plain, changed))
        assert torch.equal(images, augmented)


def test_training_images_alone_are_mirrored_in_every_second_epoch():
    plain, turned = (ImageData("digits", augment=Augment(alternating_flip=turns)) for turns in (False, True))
    plain.setup()
    turned.setup()
    plain_loader, turned_loader = plain.train_dataloader(), turned.train_dataloader()
    for _ in range(2):
        images, found = batches(plain_loader)[0], batches(turned_loader)[0]
        mirrored = (found == images.flip(3)).flatten(1).all(1)
        assert (mirrored | (found == images).flatten(1).all(1)).all()
        assert 0.4 < mirrored.float().mean() < 0.6
    assert torch.equal(batches(turned.test_dataloader())[0], batches(plain.test_dataloader())[0])
    assert torch.equal(batches(turned.val_dataloader())[0], batches(plain.val_dataloader())[0])


def test_stated_statistics_are_those_of_the_training_images(digits):
    images = digits.images[digits.parts["train"]].float() / 16
    assert abs(images.mean() - digits.mean[0]) < 1e-3
    assert abs(images.std() - digits.std[0]) < 1e-3
    assert images.max() == 1


def test_cifar10_binary_records(published):
    rng = np.random.default_rng(0)
    labels, pixels = (
        np.tile(np.arange(10, dtype=np.uint8), 6),
        rng.integers(0, 256, (60, 3072), dtype=np.uint8),
    )
    records = np.concatenate([labels[:, None], pixels], 1).reshape(6, 10, 3073)
    names = [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]
    root = published("cifar10", {name: part.tobytes() for name, part in zip(names, records, strict=True)})
    data = ImageData("cifar10", root=str(root), val_size=10, batch_size=8)
    data.prepare_data()
    data.setup()
    images, found = batches(data.test_dataloader())
    assert found.tolist() == list(range(10))
    np.testing.assert_allclose(images.numpy(), pixels[50:].reshape(10, 3, 32, 32) / 255, rtol=1e-6)
    assert len(batches(data.val_dataloader())[1].unique()) == 10
    assert len(batches(data.train_dataloader())[1]) == 40
    assert data.classes[3] == "cat"


def test_cifar100_binary_records(published):
    rng = np.random.default_rng(0)
    pixels, fine = rng.integers(0, 256, (500, 3072), dtype=np.uint8), np.tile(np.arange(100, dtype=np.uint8), 5)
    records = np.concatenate([fine[:, None] // 5, fine[:, None], pixels], 1)
    files = {"train.bin": records[:300].tobytes(), "test.bin": records[300:].tobytes()}
    data = ImageData("cifar100", root=str(published("cifar100", files)), val_size=100)
    data.setup()
    images, labels = batches(data.test_dataloader())
    assert labels.tolist() == list(range(100)) * 2
    np.testing.assert_allclose(images.numpy(), pixels[300:].reshape(200, 3, 32, 32) / 255, rtol=1e-6)
    assert (data.classes[0], data.classes[99], len(data.classes)) == ("apple", "worm", 100)


def test_svhn_matlab_files(published):
    rng = np.random.default_rng(0)
    files, arrays = {}, {}
    for part, n in (("train", 60), ("test", 20)):
        arrays[part] = rng.integers(0, 256, (32, 32, 3, n), dtype=np.uint8)
        file = io.BytesIO()
        scipy.io.savemat(
            file,
            {"X": arrays[part], "y": np.arange(1, n + 1)[:, None] % 10 + 10 * (np.arange(1, n + 1)[:, None] % 10 == 0)},
        )
        files[f"{part}_32x32.mat"] = file.getvalue()
    data = ImageData("svhn", root=str(published("svhn", files)), val_size=10)
    data.setup()
    images, labels = batches(data.test_dataloader())
    assert labels.tolist() == [i % 10 for i in range(1, 21)]  # the digit 0 has the label 10 in the files
    np.testing.assert_allclose(images.numpy(), arrays["test"].transpose(3, 2, 0, 1) / 255, rtol=1e-6)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_mnist_idx_files(published, name):
    rng = np.random.default_rng(0)
    files, arrays = {}, {}
    for part, n in (("train", 50), ("t10k", 20)):
        arrays[part] = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        labels = np.arange(n, dtype=np.uint8) % 10
        files[f"{part}-images-idx3-ubyte"] = struct.pack(">4I", 0x803, n, 28, 28) + arrays[part].tobytes()
        files[f"{part}-labels-idx1-ubyte"] = struct.pack(">2I", 0x801, n) + labels.tobytes()
    data = ImageData(name, root=str(published(name, files)), val_size=10, batch_size=40)
    data.setup()
    images, labels = batches(data.test_dataloader())
    np.testing.assert_allclose(images[:, 0].numpy(), arrays["t10k"] / 255, rtol=1e-6)
    assert labels.tolist() == [i % 10 for i in range(20)]
    assert len(batches(data.train_dataloader())[1]) == 40


def test_missing_data_is_one_clear_error(tmp_path):
    data = ImageData("cifar10", root=str(tmp_path), download=False)
    with pytest.raises(DataNotFoundError, match=r"data_batch_1\.bin is not in .*cifar-10-batches-bin"):
        data.setup()


def test_no_validation_part_when_its_size_is_zero():
    data = ImageData("digits", val_size=0)
    data.setup()
    assert data.val_dataloader() == []
    assert len(data.parts["train"]) == 1437


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, r"data\.batch_size must be at least 1"),
        ({"val_size": -1}, r"data\.val_size must not be negative"),
        ({"val_size": 1430}, r"val_size=1430 cannot be cut from 1437 images"),
        ({"batch_size": 5000}, "lower batch_size"),
    ],
)
def test_impossible_sizes_are_errors(options, message):
    def prepare():
        data = ImageData("digits", **options)
        data.setup()
        return data.train_dataloader()

    with pytest.raises(ValueError, match=message):
        prepare()


def test_unknown_names_list_the_valid_ones():
    with pytest.raises(ValueError, match="no data set 'digit'; valid names are cifar10, cifar100, digits"):
        ImageData("digit")
    with pytest.raises(TypeError, match="no option 'batchsize'; valid are augment, batch_size"):
        ImageData("digits", batchsize=3)
    with pytest.raises(RuntimeError, match=r"call setup\(\) first"):
        ImageData("digits").train_dataloader()


class _Sums(LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.sums = []

    def training_step(self, batch):
        self.sums.append(float(batch[0].sum()))
        return self.weight * 0

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)


def test_overfit_batches_gives_the_same_plain_batch_each_epoch(tmp_path):
    module = _Sums()
    trainer = Trainer(
        default_root_dir=tmp_path,
        accelerator="cpu",
        max_epochs=3,
        overfit_batches=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=ImageData("digits", augment=Augment(crop=1)))
    assert len(module.sums) == 3
    assert len(set(module.sums)) == 1
