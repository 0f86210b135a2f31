"""Known vulnerabilities of the packages that pyproject.toml names, at the versions that are installed.

The run fails if a later version fixes one. Without an index that answers, it is said that nothing is known.
"""

import json
import re
import subprocess
import sys
import tempfile
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def installed() -> list[str]:
    """name==version of each package of the project that is installed; a local label such as +cpu is no release."""
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    pins = set()
    for line in lines:
        match = re.match(r"[\w.-]+", line)
        assert match, line
        try:
            pins.add(f"{match[0]}=={version(match[0]).partition('+')[0]}")
        except PackageNotFoundError:
            continue
    return sorted(pins)


def main() -> int:
    """0 unless there is something to be done."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(installed()))
        file.flush()
        command = ["pip-audit", "--no-deps", "--disable-pip", "--progress-spinner=off", "--format=json"]
        done = subprocess.run([*command, "--requirement", file.name], capture_output=True, text=True, check=False)
    if not done.stdout.strip():
        print(f"pip-audit: no answer from the index, nothing is known: {done.stderr.strip()[-300:]}")
        return 0
    packages = json.loads(done.stdout)["dependencies"]
    skipped = [package["name"] for package in packages if "skip_reason" in package]
    found = [(package, entry) for package in packages for entry in package.get("vulns", [])]
    for package, entry in found:
        fix = ", ".join(entry["fix_versions"]) or "none yet"
        print(f"pip-audit: {package['name']} {package['version']}: {entry['id']}, fixed in: {fix}")
    print(f"pip-audit: {len(packages) - len(skipped)} packages looked up, {len(skipped)} unknown to the index")
    return int(any(entry["fix_versions"] for _, entry in found))


if __name__ == "__main__":
    sys.exit(main())
