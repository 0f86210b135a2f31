"""Images of the user's own, in a folder per class."""

import numpy as np
import pytest
import torch
from PIL import Image

from deqzoo.data.files import CorruptDataError
from deqzoo.data.image_folder import ImageFolderData
from deqzoo.errors import ConfigError
from tests.running import run

CLASSES = ("cats", "dogs", "owls")


def write_images(root, parts, size=(12, 9), ending="png"):
    """Images of one colour per class (and a shade per image): of each part so many per class."""
    for part, count in parts.items():
        for label, name in enumerate(CLASSES):
            folder = root / part / name
            folder.mkdir(parents=True, exist_ok=True)
            for i in range(count):
                pixels = np.full((size[1], size[0], 3), 10 * i, np.uint8)
                pixels[..., label] = 250
                Image.fromarray(pixels).save(folder / f"{i:03}.{ending}")
    return root


def test_classes_sizes_and_parts(tmp_path):
    data = ImageFolderData("folder", root=str(write_images(tmp_path, {"": 20})), size=6, batch_size=4)
    info = data.info
    assert info.classes == CLASSES
    assert (info.in_channels, info.size) == (3, (6, 6))
    data.setup()
    assert {part: len(indices) for part, indices in data.parts.items()} == {"train": 39, "val": 9, "test": 12}
    assert len(torch.cat(list(data.parts.values())).unique()) == 60
    images, labels = next(iter(data.test_dataloader()))
    assert images.shape[1:] == (3, 6, 6)
    assert torch.equal(images.amax(dim=(2, 3)).argmax(dim=1), labels)
    again = ImageFolderData("folder", root=str(tmp_path), size=6, seed=5)
    again.setup()
    assert all(torch.equal(again.parts[part], data.parts[part]) for part in data.parts)


def test_parts_of_their_own_are_kept(tmp_path):
    data = ImageFolderData("folder", root=str(write_images(tmp_path, {"train": 10, "val": 2, "test": 3})), size=8)
    data.setup()
    assert {part: len(indices) for part, indices in data.parts.items()} == {"train": 30, "val": 6, "test": 9}
    assert data.labels[data.parts["test"]].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    without = ImageFolderData("folder", root=str(write_images(tmp_path / "b", {"train": 10, "test": 3})), size=8)
    without.setup()
    assert {part: len(indices) for part, indices in without.parts.items()} == {"train": 24, "val": 6, "test": 9}


def test_grey_images_of_several_formats_are_scaled_and_cut_about_the_middle(tmp_path):
    write_images(tmp_path, {"": 6}, size=(40, 20), ending="jpg")
    wide = np.zeros((20, 40, 3), np.uint8)
    wide[:, 10:30] = 255  # what is left of it
    Image.fromarray(wide).convert("P").save(tmp_path / "cats" / "000.gif")
    data = ImageFolderData("folder", root=str(tmp_path), size=10, channels=1)
    data.setup()
    assert data.images.shape[1:] == (1, 10, 10)
    assert data.images[0].min() > 200  # cats/000.gif stands first
    assert len(data.info.mean) == 1


@pytest.mark.parametrize("root", [None, "nowhere"])
def test_without_a_folder_it_says_what_is_needed(root):
    with pytest.raises(ConfigError, match=r"data=folder needs data.root=DIR"):
        ImageFolderData("folder", root=root).info  # noqa: B018


def test_mistakes_are_told_with_the_mend(tmp_path):
    with pytest.raises(ConfigError, match="holds 0 folders of images"):
        ImageFolderData("folder", root=str(tmp_path)).info  # noqa: B018
    write_images(tmp_path, {"": 1})
    with pytest.raises(ConfigError, match="cannot be held out"):
        ImageFolderData("folder", root=str(tmp_path)).setup()
    (tmp_path / "cats" / "x.png").write_text("no image")
    with pytest.raises(CorruptDataError, match=r"x.png is no image"):
        ImageFolderData("folder", root=str(tmp_path)).setup()
    with pytest.raises(ValueError, match=r"data.channels must be 3"):
        ImageFolderData("folder", root=str(tmp_path), channels=2)
    with pytest.raises(ValueError, match="valid is folder"):
        ImageFolderData("mine", root=str(tmp_path))


def test_a_training_on_them(tmp_path):
    write_images(tmp_path / "images", {"": 20})
    words = ["data=folder", f"data.root={tmp_path / 'images'}", "data.size=8", "data.batch_size=8"]
    words += ["model.widths=[8]", "trainer.max_epochs=1", "trainer.enable_progress_bar=False"]
    found = run(tmp_path / "run", *words)
    assert found.metrics["test"]["n"] == 12
    assert found.metrics["data"] == "folder"
