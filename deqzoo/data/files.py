"""Where a set's files lie, how they get there, and that they are whole."""

import gzip
import hashlib
import os
import tempfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar


@dataclass(frozen=True)
class Archive:
    """A published file: one that holds some of a set's files, compressed, or one of them as it is (``saved_as``).

    Its md5 may be None where the content of the files is checked in another way.
    """

    url: str
    md5: str | None
    saved_as: str | None = None


@dataclass(frozen=True, kw_only=True)
class FileSet:
    """A data set that lies in files.

    Attributes:
        title: its name in prose.
        source, licence: where it is published, and on which terms.
        megabytes: size of the download; 0: there is none.
        folder: where the files lie under the data root.
        files: md5 of the content of each file (None: not checked); a file may also stand there as ``NAME.gz``.
        archives: what to download.
    """

    instead: ClassVar[str]  # what to do without the files

    title: str
    source: str
    licence: str
    megabytes: int = 0
    folder: str = ""
    files: Mapping[str, str | None] = field(default_factory=dict)
    archives: tuple[Archive, ...] = ()


class DataNotFoundError(FileNotFoundError):
    """A file of a data set is missing, and could not be or was not to be downloaded."""


class CorruptDataError(ValueError):
    """A file of a data set is not the one that was published."""


def data_root(root: str | os.PathLike[str] | None = None) -> Path:
    """The folder of all data: ``root``, else the environment's ``DEQZOO_DATA``, else ``~/.cache/deqzoo``.

    >>> data_root("~/sets") == Path.home() / "sets"
    True
    """
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(root or os.environ.get("DEQZOO_DATA") or Path(cache, "deqzoo")).expanduser()


def fetch(spec: FileSet, root: str | os.PathLike[str] | None = None, *, download: bool = True) -> Path:
    """The folder with all files of a set, which are downloaded when one is missing.

    Raises:
        DataNotFoundError: a file is missing and cannot be downloaded; the message names the ways on.
    """
    folder = data_root(root) / spec.folder
    missing = [name for name in spec.files if _stored(folder, name) is None]
    if not missing:
        return folder
    reason, cause = "download is off" if spec.archives else "it is not downloaded", None
    if download and spec.archives:
        there = data_root(root).exists()
        try:
            _download(spec, data_root(root), folder)
            return folder
        except (OSError, RuntimeError) as error:
            reason, cause = f"the download failed: {error}", error
            if not there and data_root(root).is_dir() and not any(data_root(root).iterdir()):
                data_root(root).rmdir()
    urls = "\n".join(f"       {archive.url}" for archive in spec.archives) or f"       {spec.source}"
    put = "save" if any(archive.saved_as for archive in spec.archives) else "unpack"
    raise DataNotFoundError(
        f"{spec.title}: the file {missing[0]} is not in {folder} ({reason}).\nThree ways on:\n"
        f"  1. On a machine with a network, download\n{urls}\n"
        f"     and {put} it so that {folder / missing[0]} exists.\n"
        f"  2. If you have the data, say where: data.root=FOLDER or the environment variable DEQZOO_DATA;\n"
        f"     the file is looked for in FOLDER/{spec.folder}.\n"
        f"  3. {spec.instead}"
    ) from cause


def read_file(folder: Path, name: str, md5: str | None) -> bytes:
    """Content of a file, or of its gzipped form, checked against its md5, if there is one.

    Raises:
        CorruptDataError: the content is not what was published.
    """
    path = _stored(folder, name)
    if path is None:
        raise DataNotFoundError(f"the file {name} is not in {folder}; `prepare_data()` fetches it")
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise _corrupt(path, str(error)) from error
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if md5 is not None and found != md5:
        raise _corrupt(path, f"its md5 is {found}, that of the published file {md5}")
    return content


def _stored(folder: Path, name: str) -> Path | None:
    """The file as it stands there: plain, gzipped, or not at all."""
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _corrupt(path: Path, why: str) -> CorruptDataError:
    return CorruptDataError(f"{path} is corrupt: {why}. Delete it and run again, so that it is fetched anew.")


def _download(spec: FileSet, root: Path, folder: Path) -> None:
    """Fetch and unpack a set's archives beside their place; only whole, checked files are moved there."""
    from torchvision.datasets.utils import download_and_extract_archive, download_url

    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root, prefix=".download-") as temp:
        for archive in spec.archives:
            if archive.saved_as is None:
                download_and_extract_archive(archive.url, temp, md5=archive.md5, remove_finished=True)
            else:
                download_url(archive.url, temp, archive.saved_as, md5=archive.md5)
        found = {name: next(Path(temp).rglob(name)) for name in spec.files}
        for name, path in found.items():
            read_file(path.parent, name, spec.files[name])
        folder.mkdir(parents=True, exist_ok=True)
        for name, path in found.items():
            os.replace(path, folder / name)
