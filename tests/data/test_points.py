"""Drawn points: the same always, in the regions that their labels say."""

import pytest
import torch
from torch import Generator

from deqzoo.data import PointData
from deqzoo.data.points import draw_spheres


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_spheres_lie_where_their_labels_say(dim):
    points, labels = draw_spheres(6000, dim, Generator().manual_seed(0))
    radius = points.norm(dim=1)
    assert labels.bincount().tolist() == [2000, 4000]
    assert (radius[labels == 0] <= 0.5).all()
    assert ((radius[labels == 1] >= 1.0) & (radius[labels == 1] <= 1.5 + 1e-6)).all()
    # Uniform in volume: the volume within a point's radius, as a fraction of its part's, is uniform in [0, 1].
    inside = (radius[labels == 0] / 0.5) ** dim
    outside = (radius[labels == 1] ** dim - 1) / (1.5**dim - 1)
    for fraction in (inside, outside):
        assert fraction.mean().item() == pytest.approx(0.5, abs=0.02)
        assert fraction.square().mean().item() == pytest.approx(1 / 3, abs=0.02)
    assert points.mean(0).abs().max() < 0.06


def test_parts_are_drawn_apart_and_do_not_depend_on_the_seed():
    data, other = PointData("spheres", train_size=40, val_size=30, test_size=20), PointData("spheres", seed=5)
    for each in (data, other):
        each.setup()
    assert {name: len(part) for name, part in data.parts.items()} == {"train": 40, "val": 30, "test": 20}
    points = data.tensors[0]
    assert len(points.unique(dim=0)) == 90
    test = next(iter(data.test_dataloader()))
    assert torch.equal(test[0], points[data.parts["test"]])
    again = PointData("spheres", seed=7, train_size=40, val_size=30, test_size=20)
    again.setup()
    assert torch.equal(again.tensors[0], points)


def test_wrong_names_and_sizes():
    with pytest.raises(ValueError, match="no set of points 'circles'; valid names are spheres"):
        PointData("circles")
    with pytest.raises(TypeError, match="PointData has no option 'radius'; valid are batch_size, dim"):
        PointData("spheres", radius=3)
    with pytest.raises(ValueError, match=r"data\.dim must be at least 1"):
        PointData("spheres", dim=0)
