"""Texts: disjoint contiguous parts, each token scored once, a vocabulary from the training part alone."""

import hashlib
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deqzoo.data.config import TextDataConfig
from deqzoo.data.files import Archive, CorruptDataError, DataNotFoundError
from deqzoo.data.info import IGNORED
from deqzoo.data.kinds import make_data
from deqzoo.data.text import TextData, WindowLoader
from deqzoo.data.text_sets import TEXT_SETS, TextSet
from deqzoo.data.vocabulary import UNKNOWN
from deqzoo.errors import ConfigError
from tests.texts import write_text


@pytest.fixture
def own(tmp_path):
    return write_text(tmp_path / "own.txt")


def set_up(own, **options):
    data = TextData("text_file", file=str(own), **{"length": 16, "context": 8} | options)
    data.setup()
    return data


def test_parts_are_contiguous_disjoint_and_all_of_the_text(own):
    data = set_up(own)
    text = own.read_text()
    spans = [data.spans[part] for part in ("train", "val", "test")]
    assert spans == [(0, int(0.9 * len(text))), (int(0.9 * len(text)), int(0.95 * len(text))), (spans[2][0], len(text))]
    assert data.vocabulary.decode(data.tensors[0].tolist()) == text


def test_no_batch_leaves_its_part(own):
    data = set_up(own, batch_size=4, eval_batch_size=3)
    data.tensors = (torch.arange(len(data.tensors[0])),)  # tokens that tell their place
    loaders = {"train": data.train_dataloader(), "val": data.val_dataloader(), "test": data.test_dataloader()}
    for part, loader in loaders.items():
        begin, end = data.spans[part]
        for _ in range(3):
            for inputs, targets in loader:
                assert inputs.min() >= begin
                assert targets.max() < end
                scored = targets != IGNORED
                assert torch.equal(targets[scored], inputs[scored] + 1)


@given(n=st.integers(9, 60), length=st.integers(1, 8), context=st.integers(0, 7), batch_size=st.integers(1, 9))
def test_each_token_but_the_first_is_scored_once_after_enough_context(n, length, context, batch_size):
    context = min(context, length - 1)
    loader = WindowLoader(torch.arange(100), (5, 5 + n), length, context, batch_size=batch_size)
    batches = list(loader)
    assert len(batches) == len(loader)
    inputs, targets = (torch.cat(parts) for parts in zip(*batches, strict=True))
    scored = targets != IGNORED
    assert targets[scored].tolist() == list(range(6, 5 + n))
    seen = targets - inputs[:, :1]  # tokens before each target in its window
    assert (seen[scored] >= torch.minimum(targets[scored] - 5, torch.tensor(context + 1))).all()


def test_training_cuts_the_text_anew_each_epoch_and_a_killed_epoch_goes_on():
    def loader():
        return WindowLoader(torch.arange(200), (10, 190), 16, 8, batch_size=3, shuffle=True, seed=4)

    whole = loader()
    epochs = [torch.cat([inputs for inputs, _ in whole]) for _ in range(3)]
    cuts = {int((epoch[0, 0] - 10) % 16) for epoch in epochs}
    assert len(cuts) > 1
    for epoch in epochs:
        assert len(epoch.unique()) == epoch.numel() == 9 * 16  # side by side
    cut_off = loader()
    batches = iter(cut_off)
    next(batches)
    resumed = loader()
    resumed.load_state_dict(cut_off.state_dict())
    assert torch.equal(torch.cat([inputs for inputs, _ in resumed]), epochs[0][3:])


def test_vocabulary_is_that_of_the_training_part(tmp_path):
    path = tmp_path / "own.txt"
    path.write_text("ab" * 450 + "é" * 100)
    data = set_up(path)
    assert data.info.vocabulary == (UNKNOWN, "a", "b")
    assert data.info.unit == "characters"
    (tokens,) = data.tensors
    assert not tokens[900:].any()
    assert (tokens[:900] > 0).all()


def test_words_in_a_file_a_part(tmp_path):
    folder = tmp_path / "wikitext-103"
    folder.mkdir()
    parts = {"train": " = Be = \n to be <unk> to\n" * 20, "valid": "to see \n" * 20, "test": "be to \n" * 20}
    for name, text in parts.items():
        (folder / f"wiki.{name}.tokens").write_text(text)
    data = make_data(TextDataConfig(name="wikitext103", root=str(tmp_path), length=8, context=0), seed=0)
    assert data.info.vocabulary == (UNKNOWN, "\n", "=", "Be", "be", "to")
    data.setup()
    assert data.spans == {"train": (0, 180), "val": (180, 240), "test": (240, 300)}
    assert data.tensors[0][:9].tolist() == [2, 3, 2, 1, 5, 4, 0, 5, 1]
    assert data.tensors[0][180:183].tolist() == [5, 0, 1]
    rare = make_data(TextDataConfig(name="wikitext103", root=str(tmp_path), min_count=21), seed=0)
    assert rare.info.vocabulary == (UNKNOWN, "\n", "=", "to")


def test_known_characters_need_no_file(tmp_path):
    info = TextData("shakespeare", root=str(tmp_path), download=False).info
    assert len(info.vocabulary) == 66
    assert list(info.vocabulary[1:]) == sorted(info.vocabulary[1:])


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A set whose file lies on a server of this machine."""
    content = write_text(tmp_path / "input.txt").read_bytes()
    md5 = hashlib.md5(content).hexdigest()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(tmp_path)))
    Thread(target=server.serve_forever, daemon=True).start()
    archive = Archive(f"http://127.0.0.1:{server.server_port}/input.txt", md5, saved_as="play.txt")
    spec = TextSet(
        title="A play",
        unit="characters",
        sizes="",
        source="here",
        licence="none",
        folder="text",
        files={"play.txt": md5},
        archives=(archive,),
    )
    monkeypatch.setitem(TEXT_SETS, "play", spec)
    yield content
    server.shutdown()
    server.server_close()


def test_plain_file_is_downloaded_under_its_own_name_and_checked(tmp_path, published):
    root = tmp_path / "root"
    data = TextData("play", root=str(root), length=16, context=8)
    data.prepare_data()
    assert [path.name for path in (root / "text").iterdir()] == ["play.txt"]
    data.setup()
    assert data.vocabulary.decode(data.tensors[0].tolist()).encode() == published
    (root / "text" / "play.txt").write_text("altered")
    with pytest.raises(CorruptDataError, match=r"play\.txt is corrupt: its md5"):
        TextData("play", root=str(root)).setup()


def test_missing_file_names_the_ways_on(tmp_path):
    with pytest.raises(DataNotFoundError) as caught:
        TextData("shakespeare", root=str(tmp_path), download=False).prepare_data()
    for words in ("input.txt", "save it so that", "text/tinyshakespeare.txt exists", "data=text_file data.file=PATH"):
        assert words in str(caught.value)
    with pytest.raises(DataNotFoundError, match=r"wiki\.train\.tokens is not in .*it is not downloaded"):
        TextData("wikitext103", root=str(tmp_path)).prepare_data()


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("hamlet", {}, "no text 'hamlet'; valid names are shakespeare, text_file, wikitext103"),
        ("text_file", {}, r"data=text_file and data\.file=PATH belong together"),
        ("shakespeare", {"file": "x.txt"}, r"data=text_file and data\.file=PATH belong together"),
        ("shakespeare", {"length": 0}, r"data\.length must be at least 1"),
        ("shakespeare", {"context": 128}, r"data\.context=128 must lie in \[0, data\.length=128\)"),
    ],
)
def test_wrong_settings(name, options, told):
    with pytest.raises((ConfigError, ValueError), match=told):
        make_data(TextDataConfig(name=name, **options), seed=0)


def test_a_file_that_is_none_no_text_or_too_short(tmp_path):
    with pytest.raises(DataNotFoundError, match="there is no such file"):
        set_up(tmp_path / "none.txt")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CorruptDataError, match="is not a text in UTF-8"):
        set_up(tmp_path / "bytes")
    (tmp_path / "short").write_text("to be" * 20)
    with pytest.raises(ValueError, match=r"the val part of text_file has 5 characters.*lower data\.length=16"):
        set_up(tmp_path / "short")
