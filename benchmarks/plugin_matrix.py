"""The same suite under many pytest plugins: verdicts, ids and exit code must be those without them.

Each `--python` is an interpreter whose environment has pytest, icl_bench and some plugins; what it
has is found out. One environment with the oldest pytest and one with the newest make the table of
docs/reliability.md. Exit code 1 where a combination differs.

    python benchmarks/plugin_matrix.py --python old/bin/python --python new/bin/python
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

PLUGINS = {
    "xdist": ("pytest-xdist", ["-n", "2"]),
    "timeout": ("pytest-timeout", ["--timeout=600"]),
    "rerunfailures": ("pytest-rerunfailures", ["--reruns=1"]),
    "pytest_cov": ("pytest-cov", ["--cov=.", "--cov-report="]),
    "randomly": ("pytest-randomly", []),
    "html": ("pytest-html", ["--html=page.html"]),
    "sugar": ("pytest-sugar", []),
    "pytest_repeat": ("pytest-repeat", ["--count=1"]),
    "pytest_mock": ("pytest-mock", []),
}
"""Entry point of a plugin -> its distribution, and options that make it do something."""
NEEDED = {"html": ["metadata"]}
"""Plugin -> entry points of others that it cannot do without."""
SUITE = """\
icl_suite: 1
name: small
defaults: {sequences: 4, period: 8}
measure: {r: {probe: induction}, l: {probe: losses}}
checks:
  - {id: has, on: r, metric: induction_max, above: 0.3}
  - {id: never, on: l, metric: gain, above: 50}
  - {id: gains, on: l, metric: gain, above: 0.5}
  - {id: other, on: l, metric: gain, above: 0, models: [nothing]}
"""
TESTS = "def test_it(icl_model):\n    assert icl_model.layers >= 1\n"
MODELS = ("builtin:handwired", "builtin:control-1l")
WHAT_IS_THERE = """\
import importlib.metadata as m, json, platform
names = {e.name: e.dist.name + " " + e.dist.version for e in m.entry_points(group="pytest11")}
print(json.dumps([m.version("pytest"), platform.python_version(), names]))
"""


@dataclass(frozen=True)
class Seen:
    """What a run came to: everything that a plugin must not change.

    Args:
        code: exit code.
        verdicts: model and check -> verdict.
        tests: name of each test in the JUnit file -> its outcome.
    """

    code: int
    verdicts: dict[str, str]
    tests: dict[str, str]

    def differs(self, other: Seen) -> str:
        """Return in words how this run differs from another; empty where it does not.

        Args:
            other: the run without plugins.
        """
        told = [] if self.code == other.code else [f"exit code {self.code}, not {other.code}"]
        for mine, theirs in ((self.verdicts, other.verdicts), (self.tests, other.tests)):
            told += [
                f"{name}: {mine.get(name)}, not {theirs.get(name)}"
                for name in sorted({*mine, *theirs})
                if mine.get(name) != theirs.get(name)
            ]
        return "; ".join(told)


def combinations(there: Sequence[str]) -> Iterator[list[str]]:
    """Yield sets of plugins: none, each alone, each with xdist, and all with and without it.

    Args:
        there: entry points that the environment has.
    """
    known = [name for name in PLUGINS if name in there]
    others = [name for name in known if name != "xdist"]
    yield []
    yield from ([name] for name in known)
    if "xdist" in known:
        yield from (["xdist", name] for name in others)
    if len(others) > 1:
        yield others
    if len(known) > 2:
        yield known


def run(python: str, plugins: Sequence[str], folder: Path) -> Seen:
    """Run the suite in a folder of its own.

    Args:
        python: the interpreter.
        plugins: entry points; no other plugin is loaded.
        folder: an empty one.
    """
    (folder / "small.yaml").write_text(SUITE)
    (folder / "test_it.py").write_text(TESTS)
    loaded = [part for name in plugins for part in (*NEEDED.get(name, []), name)]
    options = [option for name in plugins for option in PLUGINS[name][1]]
    command = [python, "-m", "pytest", "-p", "icl_bench", *_each("-p", loaded), *options]
    command += ["small.yaml", "test_it.py", *(f"--icl-model={model}" for model in MODELS)]
    command += ["--icl-no-cache", "--junitxml=tests.xml", "-p", "no:cacheprovider"]
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    verdicts = {}
    for path in sorted(folder.glob("reports/*/results.json")):
        record = json.loads(path.read_bytes())
        for check in record["checks"]:
            name = f"{record['model']['slug']} {check['suite']}/{check['id']}"
            verdicts[name] = f"{check['verdict']} {check['value']}"
    if not verdicts:
        print(done.stdout[-2000:], done.stderr[-2000:], sep="\n", file=sys.stderr)
    return Seen(done.returncode, verdicts, _outcomes(folder / "tests.xml"))


def _each(option: str, values: Sequence[str]) -> list[str]:
    return [part for value in values for part in (option, value)]


def _outcomes(path: Path) -> dict[str, str]:
    """Name -> outcome of each test, of its last try where it was tried again."""
    if not path.is_file():
        return {}
    outcomes = {}
    for case in ElementTree.parse(path).iter("testcase"):
        states = [part.tag for part in case if part.tag in ("failure", "error", "skipped")]
        name = f"{case.get('classname')}::{case.get('name')}"
        # pytest-repeat says which time it is.
        outcomes[name.replace("-1-1]", "]").replace("[1-1]", "")] = (
            states[0] if states else "passed"
        )
    return outcomes


def main() -> int:
    """Run every combination in every environment, print a table, return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--python", action="append", metavar="PATH", help="default: this one")
    given = parser.parse_args()
    different = 0
    print("| pytest | plugins | exit code | verdicts | tests | different |")
    print("|---|---|---|---|---|---|")
    for python in given.python or [sys.executable]:
        asked = subprocess.run([python, "-c", WHAT_IS_THERE], capture_output=True, check=True)
        version, _, there = json.loads(asked.stdout)
        plain = None
        for plugins in combinations(list(there)):
            with tempfile.TemporaryDirectory() as folder:
                seen = run(python, plugins, Path(folder))
            plain = plain or seen
            told = seen.differs(plain)
            different += bool(told) or not seen.verdicts
            named = ", ".join(there[name].removeprefix("pytest-") for name in plugins) or "none"
            print(
                f"| {version} | {named} | {seen.code} | {len(seen.verdicts)} | {len(seen.tests)} "
                f"| {told or 'no'} |",
                flush=True,
            )
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
