"""Pictures to be represented: what they look like, where their pixels lie, and settings that cannot be."""

import pytest
import torch

from deqzoo.data.pictures import PICTURES, PictureData, coordinates, picture
from deqzoo.errors import ConfigError
from tests.running import composed


def test_a_picture_is_a_square_of_which_each_pixel_is_a_mean():
    large, small = picture("china", 64), picture("china", 32)
    means = torch.nn.functional.avg_pool2d(large, 2)
    # Both are rounded to bytes, and the borders of pixels to those of the photograph.
    assert (small - means).abs().mean() < 1.5 / 255
    assert (small - means.transpose(1, 2)).abs().mean() > 20 / 255
    sky, ground = small[:, :4].mean((1, 2)), small[:, -4:].mean((1, 2))
    assert sky[2] > sky[0]  # blue above red
    assert sky.mean() > ground.mean()


def test_coordinates_are_the_middles_of_pixels_row_after_row():
    places = coordinates(4).unflatten(0, (4, 4))
    torch.testing.assert_close(places[:, 0, 0], torch.tensor([-0.75, -0.25, 0.25, 0.75]))
    assert torch.equal(places[..., 0], places[..., 1].T)


def test_each_part_has_all_pixels_and_an_epoch_as_many_passes_as_are_asked_for():
    data = PictureData("pictures", side=8, batch_size=16, repeats=3)
    data.setup()
    places, colours = next(iter(data.test_dataloader()))
    assert torch.equal(places, coordinates(8))
    for index, name in enumerate(PICTURES):
        assert torch.equal(colours[:, index].T.unflatten(1, (8, 8)), picture(name, 8))
    batches = list(data.train_dataloader())
    assert len(batches) == 12
    seen = torch.cat([batch[0] for batch in batches[:4]])
    assert {tuple(place) for place in seen.tolist()} == {tuple(place) for place in places.tolist()}
    assert data.info.pictures == tuple(PICTURES)
    assert data.info.side == 8


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("data.side=0", "data.side must be at least 1"),
        ("data.repeats=0", "data.repeats must be at least 1"),
        ("data.batch_size=5000", "more than the 4096 pixels of data.side=64"),
        ("data.name=lena", "there is no set of pictures 'lena'"),
    ],
)
def test_settings_that_cannot_be(override, told, tmp_path):
    from deqzoo.training import Run

    with pytest.raises(ConfigError, match=told):
        Run(composed("model=deq_inr", override), tmp_path)


def test_another_picture_is_refused():
    with pytest.raises(ValueError, match="valid are china, flower, grace_hopper"):
        picture("lena", 8)
