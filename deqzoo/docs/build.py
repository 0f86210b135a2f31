"""Builds the site with Zensical, strictly, and serves it."""

import subprocess
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from deqzoo.docs.pages import write_pages
from deqzoo.errors import ConfigError
from deqzoo.paths import zoo_path

NEEDED = ("zensical", "mkdocstrings_handlers", "latex2mathml")
CONFIG = "zensical.toml"  # in docs/


def build(folder: Path | None = None) -> Path:
    """Build the site of this checkout in ``build/docs``, or ``folder``, and return the site's folder there.

    Every warning, such as that of a link that leads nowhere, is an error.
    """
    root = zoo_path("models").parent
    if not (root / "docs" / CONFIG).is_file():
        raise ConfigError("the documentation is built in a checkout of deqzoo: an installed package has no docs/")
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise ConfigError(f"the documentation needs {', '.join(missing)}: pip install -e '.[docs]'")
    folder = root / "build" / "docs" if folder is None else folder
    write_pages(root, folder / "pages")
    config = (root / "docs" / CONFIG).read_text().replace("@ROOT@", root.as_posix())
    (folder / CONFIG).write_text(config)
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean", "--config-file", str(folder / CONFIG)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigError(f"Zensical could not build the documentation:\n{done.stdout}{done.stderr}")
    return folder / "site"


class Handler(SimpleHTTPRequestHandler):
    """Answers without a line for each file."""

    protocol_version = "HTTP/1.1"  # a connection is kept for the next file

    def log_message(self, *_: Any) -> None:
        """Nothing."""


class Server(ThreadingHTTPServer):
    """Serves a folder on this machine alone."""

    request_queue_size = 64  # a page asks for many files at once

    def __init__(self, site: Path, port: int) -> None:
        super().__init__(("127.0.0.1", port), partial(Handler, directory=str(site)))


def serve(site: Path, port: int) -> None:
    """Serve a folder until Ctrl-C."""
    with Server(site, port) as server:
        print(f"The documentation is at http://127.0.0.1:{server.server_port}/ (Ctrl-C ends)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()
