"""Mutation testing: small faults are put into the source, one at a time, and the tests of the module must notice.

    python tools/mutation.py                                300 faults, drawn by seed 0; hours
    python tools/mutation.py --count 20 --seed 1            fewer, and others
    python tools/mutation.py --minutes 60                   as many as fit; called again, it goes on with the rest
    python tools/mutation.py --again                        those that survived, after tests were added
    python tools/mutation.py --again --match svd.py:49      one of them

A run that is stopped goes on where it was. The faults are put into a copy; the checkout is never touched. Each is run
in a process of its own, forked from one that has the heavy imports behind it, so this needs Linux or macOS.

The results are JSON: per mutant the outcome,

    killed      a test failed, which passes without the fault
    timeout     the tests did not end within the limit; without the fault they do, so this counts as noticed
    survived    all tests passed: a test is missing, or the fault makes no difference

and what was run without a fault: the tests that "passed", and the "seconds" of the files of tests of which a mutant ran
into the limit.

Libraries exist (mutmut, Cosmic Ray), but none draws a sample by seed. mutmut runs all tests first and puts a function
of its own between caller and callee, which tests of warnings and of `torch.compile` notice; Cosmic Ray runs
one command of tests for all modules.
"""

import argparse
import contextlib
import fnmatch
import gc
import importlib
import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import tomllib
import traceback
from collections import Counter
from pathlib import Path
from typing import Any, NoReturn

import pytest

try:
    from tools.mutants import Mutant, find_mutants
except ImportError:  # as a script
    from mutants import Mutant, find_mutants  # type: ignore[no-redef]

ROOT = Path(__file__).parent.parent
MEMORY = 8 << 30  # bytes of data that the tests of a mutant may hold


def draw(root: Path, sources: list[str], count: int, seed: int) -> list[Mutant]:
    """The first `count` of all mutants of the sources, shuffled: so the first 50 of 300 are a sample as well."""
    paths = sorted(path for pattern in sources for path in root.glob(pattern))
    found = [mutant for path in paths for mutant in find_mutants(path.relative_to(root).as_posix(), path.read_text())]
    random.Random(seed).shuffle(found)
    return found[:count]


def tests_of(file: str, table: dict[str, list[str]]) -> list[str]:
    """The tests of the first pattern that the file matches."""
    for pattern, tests in table.items():
        if fnmatch.fnmatch(file, pattern):
            return tests
    raise SystemExit(f"{file} has no tests in the table of the configuration")


class Bench:
    """A copy of the project in which tests are run.

    Args:
        root: the project.
        config: see `mutation.toml`.
        results: where the results lie; those of an earlier run are taken up.
    """

    def __init__(self, root: Path, config: dict[str, Any], results: Path) -> None:
        self.root, self.config, self.path = root, config, results
        self.results: dict[str, Any] = {"seconds": {}, "passed": [], "mutants": {}}
        if results.exists():
            self.results |= json.loads(results.read_text())
        self.folder = tempfile.TemporaryDirectory()
        self.copy, self.log = Path(self.folder.name) / "copy", Path(self.folder.name) / "log"
        for path in sorted(path for pattern in config["copy"] for path in root.glob(pattern)):
            target = self.copy / path.relative_to(root)
            target.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                shutil.copytree(path, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(path, target)
        sys.dont_write_bytecode = True  # of a mutant, which the next one would read
        for module in (*config["preload"], *config.get("plugins", [])):
            importlib.import_module(module)
        gc.freeze()  # pytest collects garbage at its end: of its own, then, and not of all that was loaded

    def judge(self, mutant: Mutant) -> str:
        """The outcome of a mutant, which is kept in the results."""
        tests = [mutant.file, *tests_of(mutant.file, self.config["tests"])]  # the examples of its docstrings first
        path = self.copy / mutant.file
        source = path.read_text()
        path.write_text(mutant.apply(source))
        outcome, seconds = self._run(tests, source=mutant.file)
        path.write_text(source)
        killer = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - |$)", self.log.read_text(errors="replace"), re.MULTILINE)
        if outcome == "timeout":
            self._check_time(tests)
        self.results["mutants"][mutant.name] = {
            "outcome": outcome,
            "killed by": killer[1] if killer and outcome == "killed" else None,
            "seconds": seconds,
        }
        self._save()
        return outcome

    def check_killers(self) -> None:
        """Raise if a test that killed a mutant fails without the fault."""
        killers = {result["killed by"] for result in self.results["mutants"].values()} - {None}
        new = sorted(killers - set(self.results["passed"]))
        if new and self._run(new, limited=False)[0] != "survived":
            raise SystemExit(f"these must pass without a fault:\n{self.log.read_text(errors='replace')[-3000:]}")
        self.results["passed"] += new
        self._save()

    def _check_time(self, tests: list[str]) -> None:
        known: dict[str, float] = self.results["seconds"]
        for test in tests:
            if test not in known:
                outcome, known[test] = self._run([test])
                if outcome != "survived":
                    raise SystemExit(
                        f"{test} must pass without a fault:\n{self.log.read_text(errors='replace')[-3000:]}"
                    )
        if sum(known[test] for test in tests) > self.config["limit"]:
            raise SystemExit(f"{', '.join(tests)} take more than {self.config['limit']} s: choose fewer")

    def _run(self, tests: list[str], *, source: str | None = None, limited: bool = True) -> tuple[str, float]:
        """The outcome of these tests, and the seconds of processor time that they took."""
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            self._in_child(tests, source, self.config["limit"] if limited else None)
        _, status, usage = os.wait4(child, 0)
        seconds = round(usage.ru_utime + usage.ru_stime, 1)
        if os.WIFSIGNALED(status):
            return "timeout" if os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGALRM) else "killed", seconds
        return "survived" if os.WEXITSTATUS(status) in (0, pytest.ExitCode.NO_TESTS_COLLECTED) else "killed", seconds

    def _in_child(self, tests: list[str], source: str | None, limit: int | None) -> NoReturn:
        code = 1
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            if limit is not None:
                resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5))
                signal.alarm(200 * limit)  # for one that waits for ever; the machine may be busy
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
            log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(log, 1)
            os.dup2(log, 2)
            os.chdir(self.copy)
            os.environ["PYTHONPATH"] = sys.path[0] = str(self.copy)
            shutil.rmtree(".hypothesis", ignore_errors=True)  # examples that found another mutant
            os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # to load all takes a second
            options = [f"-p{plugin}" for plugin in self.config.get("plugins", [])]
            options += ["-x", "-q", "-p", "no:cacheprovider", *self.config.get("options", [])]
            if source is not None:  # else pytest imports it a second time for its examples, and has all classes twice
                with contextlib.suppress(Exception):  # pytest tells of it
                    importlib.import_module(source.removesuffix(".py").replace("/", "."))
            code = int(pytest.main([*options, *tests]))
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        whole = self.path.with_suffix(".part")
        whole.write_text(json.dumps(self.results, indent=1))
        whole.replace(self.path)


def report(results: dict[str, Any], sample: list[Mutant]) -> str:
    """The rate of kills among those of the sample that were run, and the survivors."""
    outcomes = {m.name: results["mutants"][m.name]["outcome"] for m in sample if m.name in results["mutants"]}
    counts = Counter(outcomes.values())
    noticed = counts["killed"] + counts["timeout"]
    lines = sorted(name for name, outcome in outcomes.items() if outcome == "survived")
    share = f"{noticed / len(outcomes):.0%}" if outcomes else "none"
    lines.append(
        f"{len(outcomes)} of {len(sample)} mutants run: {counts['killed']} killed, {counts['timeout']} timeout, "
        f"{counts['survived']} survived; {share} noticed"
    )
    return "\n".join(lines)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=300, help="mutants to draw (300)")
    parser.add_argument("--seed", type=int, default=0, help="of the draw (0)")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no mutant after this time")
    parser.add_argument("--again", action="store_true", help="run those that survived once more")
    parser.add_argument("--match", default="", metavar="REGEX", help="run none but those whose name has a match")
    parser.add_argument("--results", type=Path, help="default: outputs/mutation_SEED.json")
    parser.add_argument("--root", type=Path, default=ROOT, help="of the project")
    parser.add_argument("--config", type=Path, default=ROOT / "tools" / "mutation.toml")
    given = parser.parse_args()
    config = tomllib.loads(given.config.read_text())
    root, end = given.root.resolve(), time.monotonic() + 60 * given.minutes
    sample = draw(root, config["sources"], given.count, given.seed)
    bench = Bench(root, config, given.results or root / "outputs" / f"mutation_{given.seed}.json")
    for number, mutant in enumerate(sample, start=1):
        known = bench.results["mutants"].get(mutant.name)
        if known and not (given.again and known["outcome"] == "survived"):
            continue
        if not re.search(given.match, mutant.name):
            continue
        if time.monotonic() > end:
            break
        print(f"{number}/{len(sample)} {mutant.name}: {bench.judge(mutant)}", flush=True)
    bench.check_killers()
    print(report(bench.results, sample))


if __name__ == "__main__":
    main()
