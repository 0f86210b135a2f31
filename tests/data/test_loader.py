"""The order of batches is a function of (seed, epoch), and an epoch can be taken up in its middle."""

import pytest
import torch

from deqzoo.data.loader import ImageLoader, PassesLoader, generator

N = 23
IMAGES = torch.arange(N * 4).reshape(N, 1, 2, 2).to(torch.uint8)
LABELS = torch.arange(N)


def make(seed=0, indices=None, batch_size=4, shuffle=True, **options):
    indices = torch.arange(N) if indices is None else indices
    return ImageLoader(IMAGES, LABELS, indices, batch_size, shuffle=shuffle, seed=seed, **options)


def noisy(images, generator):
    return images + torch.rand(images.shape, generator=generator)


def epoch_of(loader, epoch):
    """The batches of a later epoch."""
    loader.epoch, loader.batch = epoch, 0
    return list(loader)


def same(a, b):
    if len(a) != len(b):
        return False
    pairs = zip(a, b, strict=True)
    return all(torch.equal(x, u) and torch.equal(y, v) for (x, y), (u, v) in pairs)


def test_batches_are_scaled_and_of_the_right_size():
    batches = list(make(shuffle=False, white=16))
    assert [len(labels) for _, labels in batches] == [4, 4, 4, 4, 4, 3]
    images, labels = batches[2]
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64
    torch.testing.assert_close(images, IMAGES[8:12].float() / 16)


def test_a_shuffled_epoch_holds_whole_batches_of_different_images():
    loader = make()
    labels = torch.cat([labels for _, labels in loader])
    assert len(loader) == 5
    assert len(labels) == 20 == len(labels.unique())


def test_alternating_flips_mirror_each_image_in_every_second_epoch():
    loader = make(shuffle=False, alternating_flip=True)
    plain = IMAGES.float() / 255
    mirrored = []
    for epoch in range(4):
        images = torch.cat([images for images, _ in epoch_of(loader, epoch)])
        now = (images == plain.flip(3)).flatten(1).all(1)
        assert bool((now | (images == plain).flatten(1).all(1)).all())
        mirrored.append(now)
    assert torch.equal(mirrored[0], ~mirrored[1])
    assert torch.equal(mirrored[0], mirrored[2])
    assert torch.equal(mirrored[1], mirrored[3])
    assert 3 < mirrored[0].sum() < 20


def test_order_depends_on_seed_and_epoch_alone():
    first = epoch_of(make(transform=noisy), 3)
    loader = make(transform=noisy)
    for epoch in (0, 1, 2):
        epoch_of(loader, epoch)
    assert same(first, epoch_of(loader, 3))
    assert not same(first, epoch_of(loader, 4))
    assert not same(first, epoch_of(make(seed=1, transform=noisy), 3))


def test_each_epoch_has_an_order_of_its_own():
    orders = {tuple(torch.cat([labels for _, labels in epoch_of(make(), epoch)]).tolist()) for epoch in range(4)}
    assert len(orders) == 4


def test_each_pass_of_each_epoch_has_an_order_of_its_own():
    loader = PassesLoader((LABELS,), LABELS, N, shuffle=True, repeats=2)  # a batch is a pass
    passes = [labels for epoch in range(3) for (labels,) in epoch_of(loader, epoch)]
    assert [sorted(labels.tolist()) for labels in passes] == [list(range(N))] * 6
    assert len(torch.stack(passes).unique(dim=0)) == 6


def test_noise_differs_from_batch_to_batch():
    loader = ImageLoader(IMAGES * 0, LABELS, torch.arange(N), 4, shuffle=True, transform=noisy)
    first, second, *_ = [images for images, _ in loader]
    assert not torch.equal(first, second)


@pytest.mark.parametrize("stop", range(1, 6))
def test_resumes_after_the_last_batch_that_was_handed_out(stop):
    whole = epoch_of(make(transform=noisy), 2)
    loader = make(transform=noisy)
    loader.epoch = 2
    batches = iter(loader)
    for _ in range(stop):
        next(batches)
    resumed = make(transform=noisy)
    resumed.load_state_dict(loader.state_dict())
    assert same(whole[stop:], list(resumed))
    assert same(list(loader), list(resumed)), "and then comes the next epoch"
    assert loader.epoch == resumed.epoch == 3


def test_each_iteration_is_the_next_epoch():
    loader = make()
    for epoch in (0, 1, 2):
        assert same(list(loader), epoch_of(make(), epoch))
    next(iter(loader))  # an epoch that is cut short
    assert same(list(loader), epoch_of(make(), 4))


def test_a_new_announced_number_ends_the_epoch_once():
    loader = make()
    loader.set_epoch(0)
    batches = iter(loader)
    next(batches)
    resumed = make()
    resumed.load_state_dict(loader.state_dict())
    resumed.set_epoch(0)
    assert len(list(resumed)) == 4, "the same number: it goes on in its middle"
    for number in (1, 3):  # the loader's own count skips nothing
        resumed.set_epoch(number)
    assert same(list(resumed), epoch_of(make(), 1))


def test_resuming_with_another_order_is_an_error():
    state = make(seed=1).state_dict()
    with pytest.raises(ValueError, match="resume with seed=1"):
        make(seed=2).load_state_dict(state)
    with pytest.raises(ValueError, match="batch_size=4"):
        make(seed=1, batch_size=8).load_state_dict(state)


@pytest.mark.parametrize("shuffle", [False, True])
def test_processes_share_the_images_among_them(shuffle):
    shards = [make(shuffle=shuffle, rank=rank, world_size=3, batch_size=2) for rank in range(3)]
    seen = [torch.cat([labels for _, labels in shard]) for shard in shards]
    together = torch.cat(seen)
    assert len(together.unique()) == len(together)
    if shuffle:
        assert [len(part) for part in seen] == [6, 6, 6], "each process takes the same number of steps"
    else:
        assert sorted(together.tolist()) == list(range(N))


def test_processes_draw_different_noise():
    parts = [make(rank=rank, world_size=2, transform=lambda x, g: torch.rand(3, generator=g)) for rank in (0, 1)]
    first, second = (next(iter(part))[0] for part in parts)
    assert not torch.equal(first, second)


def test_only_the_given_indices_are_used():
    assert torch.cat([y for _, y in make(indices=torch.tensor([3, 7, 5]), shuffle=False)]).tolist() == [
        3,
        7,
        5,
    ]


def test_too_large_a_batch_is_an_error():
    with pytest.raises(ValueError, match="more than the 23 samples there are: lower batch_size"):
        make(batch_size=24)


def test_generators_of_different_keys_differ():
    keys = [(0,), (0, 0), (0, 1), (1,), (1, 0)]
    draws = {float(torch.rand((), generator=generator(7, *key), dtype=torch.float64)) for key in keys}
    assert len(draws) == len(keys)
    assert torch.equal(torch.rand(3, generator=generator(7, 1)), torch.rand(3, generator=generator(7, 1)))
