"""Finding, fetching and checking the files of a set; downloads come from a server on this machine."""

import gzip
import hashlib
import io
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from deqzoo.data.files import Archive, CorruptDataError, DataNotFoundError, data_root, fetch, read_file
from deqzoo.data.formats import Images
from deqzoo.data.registry import ImageSet

CONTENT = {"one.bin": b"one" * 100, "two.bin": b"two" * 50}


def md5(data):
    return hashlib.md5(data).hexdigest()


def tar_gz(files, folder):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(f"{folder}/{name}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def make_set(archives, files=CONTENT):
    return ImageSet(
        title="Tiny",
        shape=(1, 1, 1),
        classes=("a", "b"),
        mean=(0.0,),
        std=(1.0,),
        n_train=1,
        n_test=1,
        val_size=0,
        source="here",
        licence="none",
        read=lambda content: Images(np.zeros((2, 1, 1, 1), np.uint8), np.arange(2), np.arange(1)),
        folder="tiny/raw",
        files={name: md5(data) for name, data in files.items()},
        archives=archives,
    )


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def published(tmp_path):
    """A function that publishes bytes on this machine and gives the archive's description."""
    folder = tmp_path / "published"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def publish(name, data, told_md5=None):
        (folder / name).write_bytes(data)
        return Archive(f"http://127.0.0.1:{server.server_port}/{name}", told_md5 or md5(data))

    yield publish
    server.shutdown()
    server.server_close()


def test_root_is_the_argument_then_the_environment_then_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DEQZOO_DATA", "/from/environment")
    assert data_root(tmp_path) == tmp_path
    assert str(data_root()) == "/from/environment"
    monkeypatch.delenv("DEQZOO_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert data_root() == tmp_path / "deqzoo"


def test_one_archive_with_all_files(tmp_path, published):
    spec = make_set((published("tiny.tar.gz", tar_gz(CONTENT, "tiny-folder")),))
    folder = fetch(spec, tmp_path / "root")
    assert folder == tmp_path / "root" / "tiny" / "raw"
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == CONTENT
    assert [path.name for path in (tmp_path / "root").iterdir()] == ["tiny"], "nothing else is left behind"


def test_one_gzipped_file_each(tmp_path, published):
    spec = make_set(tuple(published(f"{name}.gz", gzip.compress(data)) for name, data in CONTENT.items()))
    folder = fetch(spec, tmp_path / "root")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == CONTENT


def test_what_is_there_is_not_fetched_again(tmp_path):
    spec = make_set((Archive("http://127.0.0.1:9/nobody-listens.tar.gz", "0"),))
    folder = tmp_path / spec.folder
    folder.mkdir(parents=True)
    (folder / "one.bin").write_bytes(CONTENT["one.bin"])
    (folder / "two.bin.gz").write_bytes(gzip.compress(CONTENT["two.bin"]))
    assert fetch(spec, tmp_path) == folder
    for name, data in CONTENT.items():
        assert read_file(folder, name, md5(data)) == data


def test_a_missing_file_is_fetched_beside_the_others(tmp_path, published):
    spec = make_set((published("tiny.tar.gz", tar_gz(CONTENT, "x")),))
    folder = fetch(spec, tmp_path / "root")
    (folder / "two.bin").unlink()
    fetch(spec, tmp_path / "root")
    assert (folder / "two.bin").read_bytes() == CONTENT["two.bin"]


@pytest.mark.parametrize("download", [True, False])
def test_not_there_and_not_to_be_had(tmp_path, download):
    spec = make_set((Archive("http://127.0.0.1:9/nobody-listens.tar.gz", "0"),))
    with pytest.raises(DataNotFoundError) as error:
        fetch(spec, tmp_path, download=download)
    message = str(error.value)
    assert "the download failed" in message if download else "download is off" in message
    for part in ("one.bin", str(tmp_path / "tiny/raw"), "nobody-listens.tar.gz", "data.root=", "data=digits"):
        assert part in message


def test_a_failed_download_leaves_no_folder(tmp_path):
    spec = make_set((Archive("http://127.0.0.1:9/nobody-listens.tar.gz", "0"),))
    with pytest.raises(DataNotFoundError):
        fetch(spec, tmp_path / "root")
    assert not list(tmp_path.iterdir())


def test_an_archive_with_the_wrong_md5_leaves_nothing(tmp_path, published):
    spec = make_set((published("tiny.tar.gz", tar_gz(CONTENT, "x"), told_md5="0" * 32),))
    with pytest.raises(DataNotFoundError, match="corrupted"):
        fetch(spec, tmp_path / "root")
    assert not (tmp_path / "root").exists()


def test_an_archive_with_another_content_leaves_nothing(tmp_path, published):
    other = {name: data + b"!" for name, data in CONTENT.items()}
    spec = make_set((published("tiny.tar.gz", tar_gz(other, "x")),))
    with pytest.raises(CorruptDataError):
        fetch(spec, tmp_path / "root")
    assert list((tmp_path / "root").iterdir()) == []


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("harm", ["truncated", "altered"])
def test_a_corrupt_file_is_named_with_the_mend(tmp_path, suffix, harm):
    data = CONTENT["one.bin"]
    stored = gzip.compress(data) if suffix else data
    stored = stored[:-5] if harm == "truncated" else stored[:-1] + b"\xff"
    path = tmp_path / f"one.bin{suffix}"
    path.write_bytes(stored)
    with pytest.raises(CorruptDataError, match="Delete it and run again") as error:
        read_file(tmp_path, "one.bin", md5(data))
    assert str(path) in str(error.value)
