"""``python -m deqzoo list | tables [--check] | docs | publish RUN ... | seeds RUN ... | measure NAME ...``."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from deqzoo.errors import written_for_users
from deqzoo.zoo.loading import list_models
from deqzoo.zoo.shipped import add_seeds, publish
from deqzoo.zoo.tables import stale, write_pages


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m deqzoo", description="Look after the zoo.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="the entries; * marks those with trained weights")
    tables = commands.add_parser("tables", help="write the generated pages: tables and model cards")
    tables.add_argument("--check", action="store_true", help="only say which are stale; exit 1 if some are")
    publishing = commands.add_parser("publish", help="ship a run's weights: copy its export to checkpoints/")
    publishing.add_argument("runs", type=Path, nargs="+", help="run folder; further ones are other seeds of it")
    seeding = commands.add_parser("seeds", help="add other seeds of a shipped entry to its mean and spread")
    seeding.add_argument("runs", type=Path, nargs="+", help="finished run folders of one entry")
    measuring = commands.add_parser("measure", help="test shipped weights again, and write their metrics and card anew")
    measuring.add_argument("names", nargs="+", metavar="NAME", help="an entry")
    documentation = commands.add_parser("docs", help="build the documentation in build/docs/site, and serve it")
    documentation.add_argument("--no-serve", action="store_true", help="only build")
    documentation.add_argument("--port", type=int, default=8000, help="of the server; 0: one that is free")
    chosen = parser.parse_args(arguments)
    if chosen.command == "list":
        trained = list_models(pretrained=True)
        print("\n".join(f"{name}{' *' if name in trained else ''}" for name in list_models()))
    elif chosen.command in ("docs", "publish", "seeds", "measure"):
        try:
            if chosen.command == "docs":
                _docs(None if chosen.no_serve else chosen.port)
            elif chosen.command == "publish":
                _publish(chosen.runs)
            elif chosen.command == "seeds":
                _add_seeds(chosen.runs)
            else:
                _measure(chosen.names)
        except Exception as error:
            if not written_for_users(error):
                raise
            sys.exit(f"Error: {error}")
    elif chosen.check:
        if pages := stale():
            sys.exit(f"stale: {', '.join(map(str, pages))}; run `python -m deqzoo tables`")
    else:
        print("\n".join(f"wrote {path}" for path in write_pages()) or "all pages are up to date")


def _docs(port: int | None) -> None:
    from deqzoo.docs.build import build, serve

    site = build()
    if port is None:
        print(f"built {site}")
    else:
        serve(site, port)


def _publish(runs: Sequence[Path]) -> None:
    from deqzoo.training.as_recipe import check_recipe

    settings = [check_recipe(run) for run in runs]
    print(f"checkpoints/{publish(runs, settings[0])}")
    write_pages()


def _add_seeds(runs: Sequence[Path]) -> None:
    from deqzoo.training.as_recipe import check_recipe

    for run in runs:
        check_recipe(run)
    print(f"checkpoints/{add_seeds(runs)}")
    write_pages()


def _measure(names: Sequence[str]) -> None:
    from deqzoo.training.measure_again import measure_again

    for name in names:
        before, now = measure_again(name)
        changed = {key: (before.get(key), value) for key, value in now.items() if before.get(key) != value}
        print(name, ", ".join(f"{key} {old} -> {new}" for key, (old, new) in changed.items()) or "unchanged")
        write_pages()


if __name__ == "__main__":
    main()
