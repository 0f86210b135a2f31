"""Few-shot episodes: what they are made of, that nothing leaks, that they follow from the seed; the two readers."""

import io
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Generator

from deqzoo.data import Augment, DataNotFoundError, EpisodeData, cifar_fs, omniglot
from deqzoo.data.episodes import EPISODE_SETS, draw_episode
from deqzoo.data.files import CorruptDataError
from deqzoo.errors import ConfigError
from tests.data.episode_sets import put_in_place, small_set


@pytest.fixture
def small(monkeypatch):
    put_in_place(monkeypatch)

    def data(**options):
        chosen = {"queries": 2, "train_episodes": 12, "val_episodes": 4, "test_episodes": 6} | options
        made = EpisodeData("omniglot", **chosen)
        made.prepare_data()
        made.setup()
        return made

    return data


# --- one episode ---


@settings(max_examples=60)
@given(
    ways=st.integers(2, 6),
    shots=st.integers(1, 5),
    queries=st.integers(1, 5),
    classes=st.integers(6, 12),
    rotations=st.booleans(),
    seed=st.integers(0, 2**20),
)
@example(ways=6, shots=5, queries=5, classes=6, rotations=True, seed=0)
def test_support_and_queries_share_no_image_and_classes_differ(ways, shots, queries, classes, rotations, seed):
    of_part = torch.arange(classes) * 3 + 1
    draw = draw_episode(of_part, 10, ways, shots, queries, rotations, Generator().manual_seed(seed))
    assert draw.support.shape == (ways, shots)
    assert draw.queries.shape == (ways, queries)
    places = torch.cat([draw.support, draw.queries], 1)
    assert all(len(set(row.tolist())) == shots + queries for row in places)
    assert places.min() >= 0
    assert places.max() < 10
    assert len(set(zip(draw.classes.tolist(), draw.turns.tolist(), strict=True))) == ways
    given, asked = (  # of a character that is drawn at two turns, too
        {(kind, place) for kind, row in zip(draw.classes.tolist(), part.tolist(), strict=True) for place in row}
        for part in (draw.support, draw.queries)
    )
    assert not given & asked
    assert set(draw.classes.tolist()) <= set(of_part.tolist())
    assert draw.turns.max() < (4 if rotations else 1)


@pytest.mark.parametrize("asked", [{"ways": 4}, {"shots": 8}, {"queries": 9}])
def test_an_episode_that_does_not_fit_says_so(asked):
    sizes = {"ways": 3, "shots": 2, "queries": 2} | asked
    with pytest.raises(ConfigError, match=r"do not fit 3 classes of 9: lower data\.ways"):
        draw_episode(torch.arange(3), 9, **sizes, rotations=False, random=Generator())


def test_all_classes_turns_and_images_are_drawn_alike():
    random = Generator().manual_seed(0)
    draws = [draw_episode(torch.arange(6), 5, 3, 1, 1, True, random) for _ in range(2000)]
    for values, kinds in (
        (torch.cat([d.classes for d in draws]), 6),
        (torch.cat([d.turns for d in draws]), 4),
        (torch.cat([d.support for d in draws]).flatten(), 5),
    ):
        shares = values.bincount(minlength=kinds) / len(values)
        assert shares.tolist() == pytest.approx([1 / kinds] * kinds, abs=0.02)


# --- batches ---


def test_batch_is_of_the_images_that_were_drawn(small):
    data = small(batch_size=3)
    support, labels, queries, targets = next(iter(data.test_dataloader()))
    assert support.shape == (6, 5, 1, 28, 28)
    assert queries.shape == (6, 10, 1, 28, 28)
    assert labels.tolist() == [[0, 1, 2, 3, 4]] * 6
    assert targets.tolist() == [[0, 0, 1, 1, 2, 2, 3, 3, 4, 4]] * 6
    images, _ = small_set()
    loader = data.test_dataloader()
    draw = loader.draw(3)
    expected = images[draw.classes[:, None], draw.queries].flatten(0, 1).float() / 255
    torch.testing.assert_close(queries[3], expected)


def test_training_images_are_turned_by_class(small):
    data = small(batch_size=12)
    loader = data.train_dataloader()
    support, _, queries, _ = next(iter(loader))
    order = loader._order()
    images, _ = small_set()
    seen = set()
    for row, number in enumerate(order[:12].tolist()):
        draw = loader.draw(number)
        for way, (kind, turn) in enumerate(zip(draw.classes.tolist(), draw.turns.tolist(), strict=True)):
            turned = torch.rot90(images[kind], turn, (-2, -1)).float() / 255
            torch.testing.assert_close(support[row, way], turned[draw.support[way, 0]])
            torch.testing.assert_close(queries[row, 2 * way : 2 * way + 2], turned[draw.queries[way]])
            seen.add(turn)
    assert seen == {0, 1, 2, 3}


def test_classes_never_leak_between_parts(small):
    data = small(train_episodes=60, val_episodes=40, test_episodes=40)
    used = {}
    loaders = {"train": data.train_dataloader(), "val": data.val_dataloader(), "test": data.test_dataloader()}
    for part, loader in loaders.items():
        used[part] = {kind for number in range(40) for kind in loader.draw(number).classes.tolist()}
        assert used[part] == set(data.classes[part].tolist())
    assert len(used["train"] | used["val"] | used["test"]) == sum(len(kinds) for kinds in used.values())


def test_same_seed_gives_the_same_episodes_whatever_the_number_of_processes(small):
    def episodes(data, processes):
        found = {}
        for rank in range(processes):
            loader = data.make_loader("train", 2, True, seed=data.seed, rank=rank, world_size=processes)
            order = loader._order()
            for start, batch in enumerate(loader):
                for place, number in enumerate(order[2 * start : 2 * start + 2].tolist()):
                    found[number] = batch[0][place]
        return found

    alone, shared, other = episodes(small(), 1), episodes(small(), 3), episodes(small(seed=4), 1)
    assert sorted(alone) == sorted(shared) == list(range(12))
    assert all(torch.equal(alone[number], shared[number]) for number in alone)
    assert not all(torch.equal(alone[number], other[number]) for number in alone)


def test_augmentation_changes_training_images_alone_and_follows_from_the_episode(small):
    def batches(processes, **options):
        data = small(**options)
        loaders = [
            data.make_loader("train", 2, True, seed=3, rank=rank, world_size=processes) for rank in range(processes)
        ]
        found = {}
        for loader in loaders:
            order = loader._order()
            for start, (support, _, queries, _) in enumerate(loader):
                for place, number in enumerate(order[2 * start : 2 * start + 2].tolist()):
                    found[number] = torch.cat([support[place], queries[place]])
        return found

    plain, alone, shared = batches(1), batches(1, augment=Augment(flip=True)), batches(3, augment=Augment(flip=True))
    assert all(torch.equal(alone[number], shared[number]) for number in plain)
    flips = torch.cat([(alone[number] == plain[number].flip(-1)).flatten(1).all(1) for number in plain])
    same = torch.cat([(alone[number] == plain[number]).flatten(1).all(1) for number in plain])
    assert bool((flips ^ same).all())
    assert flips.float().mean() == pytest.approx(0.5, abs=0.12)  # of 180 images: three standard deviations
    tested = (next(iter(small(augment=augment).test_dataloader())) for augment in (Augment(), Augment(flip=True)))
    assert all(torch.equal(a, b) for a, b in zip(*tested, strict=True))


@pytest.mark.parametrize(
    ("asked", "omniglot", "others"), [(None, True, False), (False, False, False), (True, True, True)]
)
def test_rotations_are_of_the_set_or_as_asked_and_in_training_alone(small, asked, omniglot, others):
    data, other = small(rotations=asked, batch_size=4), EpisodeData("cifar_fs", rotations=asked, batch_size=4)
    other.tensors, other.classes, other.parts = data.tensors, data.classes, data.parts
    for made, turned in ((data, omniglot), (other, others)):
        assert made.train_dataloader().rotations == turned
        assert not made.test_dataloader().rotations


def test_epochs_differ_in_training_and_not_in_the_test(small):
    data = small(batch_size=12)
    for loader, same in ((data.train_dataloader(), False), (data.test_dataloader(), True)):
        first, second = next(iter(loader)), next(iter(loader))
        assert torch.equal(first[0].sort(0).values, second[0].sort(0).values) == same


def test_training_goes_on_where_it_was_cut_off(small):
    whole = [batch[0] for batch in small(batch_size=3).train_dataloader()]
    data = small(batch_size=3)
    loader = data.train_dataloader()
    iterator = iter(loader)
    next(iterator)
    again = small(batch_size=3)
    again.load_state_dict(data.state_dict())
    rest = [batch[0] for batch in again.train_dataloader()]
    assert len(rest) == len(whole) - 1
    assert all(torch.equal(a, b) for a, b in zip(rest, whole[1:], strict=True))


# --- the sets ---


def test_splits_are_disjoint_and_complete():
    names = [f"a/character{i:04d}" for i in range(1623)]
    parts = EPISODE_SETS["omniglot"].split(names)
    assert [len(part) for part in parts.values()] == [1100, 100, 423]
    assert torch.cat(list(parts.values())).sort().values.tolist() == list(range(1623))
    others = [f"class{i}" for i in range(64)]
    names = sorted([*others, *cifar_fs.VALIDATION, *cifar_fs.TEST])
    parts = EPISODE_SETS["cifar_fs"].split(names)
    assert [len(part) for part in parts.values()] == [64, 16, 20] == list(EPISODE_SETS["cifar_fs"].counts)
    assert {names[i] for i in parts["test"]} == cifar_fs.TEST


def drawing(ink):
    """A PNG of 105 x 105 pixels, one bit each, with a black square of ``ink`` pixels per side."""
    page = np.ones((105, 105), bool)
    page[:ink, :ink] = False
    stored = io.BytesIO()
    Image.fromarray(page).save(stored, "PNG")
    return stored.getvalue()


@pytest.mark.parametrize("packed", [True, False])
def test_omniglot_reader(packed, tmp_path, monkeypatch):
    monkeypatch.setattr(omniglot, "ARCHIVES", {"images_background": 2, "images_evaluation": 1})
    monkeypatch.setattr(omniglot, "DRAWINGS", 2)
    for archive, kinds in (("images_background", ["B/character01", "A/character02"]), ("images_evaluation", ["C/c"])):
        files = {f"{archive}/{kind}/0_{i}.png": drawing(15 * (i + 1)) for kind in kinds for i in range(2)}
        if packed:
            with zipfile.ZipFile(tmp_path / f"{archive}.zip", "w") as file:
                for name, content in files.items():
                    file.writestr(name, content)
        else:
            for name, content in files.items():
                (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / name).write_bytes(content)
    images, names = omniglot.read_omniglot(tmp_path)
    assert names == ["A/character02", "B/character01", "C/c"]
    assert images.shape == (3, 2, 1, 28, 28)
    assert images[0, 0, 0, 0, 0] == 0
    assert images[0, 0, 0, -1, -1] == 255
    assert (images[0, 1] < 128).sum() == pytest.approx(64, abs=4)  # a square of 30 / 105 of 28 pixels
    monkeypatch.setattr(omniglot, "DRAWINGS", 3)
    with pytest.raises(CorruptDataError, match="should hold 2 characters with 3 drawings each"):
        omniglot.read_omniglot(tmp_path)


def test_cifar_fs_reader(tmp_path):
    names = sorted(["zebra", *cifar_fs.VALIDATION, *cifar_fs.TEST])
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (3 * len(names), 3072), dtype=np.uint8)
    fine = np.tile(np.arange(len(names), dtype=np.uint8), 3)
    records = np.concatenate([0 * fine[:, None], fine[:, None], pixels], 1)
    (tmp_path / "train.bin").write_bytes(records[: 2 * len(names)].tobytes())
    (tmp_path / "test.bin").write_bytes(records[2 * len(names) :].tobytes())
    (tmp_path / "fine_label_names.txt").write_text("\n".join(names) + "\n")
    images, found = cifar_fs.read_cifar_fs(tmp_path)
    assert found == names
    assert images.shape == (len(names), 3, 3, 32, 32)
    assert np.array_equal(images[5, 2].flatten().numpy(), pixels[2 * len(names) + 5])
    (tmp_path / "test.bin").write_bytes(records[2 * len(names) : -1].tobytes())
    with pytest.raises(CorruptDataError, match="does not hold the 37 classes"):
        cifar_fs.read_cifar_fs(tmp_path)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(DataNotFoundError, match=r"images_background\.zip is not in .*omniglot-py"):
        EpisodeData("omniglot", root=str(tmp_path), download=False).prepare_data()
    with pytest.raises(DataNotFoundError, match=r"train\.bin"):
        EpisodeData("cifar_fs", root=str(tmp_path)).setup()


def test_wrong_names_and_sizes():
    with pytest.raises(ValueError, match="no set of episodes 'imagenet'; valid names are cifar_fs, omniglot"):
        EpisodeData("imagenet")
    with pytest.raises(ValueError, match=r"data\.shots \+ data\.queries=25 images.* with 20 images each"):
        EpisodeData("omniglot", shots=10)
    with pytest.raises(ValueError, match=r"data\.ways must be at least 2"):
        EpisodeData("omniglot", ways=1)
    with pytest.raises(ValueError, match=r"those of episodes are drawn: take data\.augment\.flip"):
        EpisodeData("omniglot", augment=Augment(alternating_flip=True))


def test_a_turned_class_has_its_images_turned_by_as_many_quarters(small):
    loader = small(ways=4, shots=1, batch_size=2).train_dataloader()
    same, places = torch.zeros(1, 4, dtype=torch.long), torch.zeros(1, 4, 1, dtype=torch.long)
    images = loader._images(same, torch.arange(4).unsqueeze(0), places)[0]
    assert not torch.equal(images[0], torch.rot90(images[0], 1, (-2, -1)))
    for quarters, image in enumerate(images):
        assert torch.equal(image, torch.rot90(images[0], quarters, (-2, -1)))
