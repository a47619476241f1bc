"""Changes one place of the code at a time and counts which changes the tests notice.

Places are drawn by a seed from `measures/`, `comparing/`, the judging of checks and of suites: a
comparison, an operator, a constant or a branch. For each, the tests that cover the file run on a
copy. A change that no test notices is printed, for a reader to say whether it means anything.
Exit code 1 where one survived that `EQUIVALENT` does not list.

    python benchmarks/mutation_run.py --count 60 --seed 1
"""

from __future__ import annotations

import argparse
import ast
import compileall
import importlib
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
COMPARING = (
    "comparing_golden comparing_heads_golden comparing_states comparing comparing_defaults "
    "comparing_heads comparing_limits comparing_pairing comparing_parts comparing_versions"
)
STATISTICS = "measures_estimates_golden measures_statistics measures_intervals measures_strata"
COVER = {
    "measures/bounds.py": "measures_estimates_golden measures_intervals suite_reach",
    "measures/bump.py": "measures_bump_golden measures_bump measures_gradual_golden",
    "measures/composition.py": "measures_matrices_golden",
    "measures/copying.py": "measures_matrices_golden measures_tokens",
    "measures/cross_fitting.py": "measures_estimates_golden measures_statistics",
    "measures/draws.py": "measures_draws_golden measures_tokens",
    "measures/eigenvalues.py": "measures_matrices_golden",
    "measures/gradual.py": "measures_gradual_golden measures_gradual",
    "measures/intervals.py": STATISTICS,
    "measures/null.py": "measures_null_golden measures_null null_sets",
    "measures/phase.py": "measures_phase_golden measures_phase",
    "measures/positions.py": "measures_matrices_golden measures_positions",
    "measures/screening.py": "measures_estimates_golden measures_screening",
    "measures/sequential.py": "measures_estimates_golden",
    "measures/statistics.py": STATISTICS,
    "measures/strata.py": "measures_estimates_golden measures_strata",
    "measures/tokens.py": "measures_draws_golden measures_tokens",
    "measures/varied.py": "measures_draws_golden measures_varied",
    "comparing/comparison.py": COMPARING,
    "comparing/defaults.py": COMPARING,
    "comparing/heads.py": COMPARING,
    "comparing/limits.py": COMPARING,
    "comparing/metrics.py": COMPARING,
    "comparing/pairing.py": COMPARING,
    "comparing/parts.py": COMPARING,
    "comparing/rounding.py": COMPARING,
    "comparing/settings.py": COMPARING,
    "comparing/versions.py": COMPARING,
    "running/checks.py": "checks_golden checks",
    "suite/asserting.py": "suite_loading suite_mistakes suite_messages",
    "suite/reach.py": "suite_reach",
}
"""File of icl_bench -> names of the test files that cover it, the quickest first."""
EQUIVALENT = {
    "measures/eigenvalues.py: return torch.where(total > NOTHING * size, score.clamp(-1, 1), "
    "torch.nan) -> total >= NOTHING * size": "where both are 0 the score is 0 / 0 as well",
    "measures/varied.py: block = draws.between(max(2, n // 2), n - 2) -> 1": "n is at least 4",
}
"""File, line as it stood and change -> why no test can notice it."""
LONGEST = 900
"""Seconds after which a test run counts as hanging, which notices the change."""
MOST_WORK, MOST_MEMORY = 100, 3 * 2**30
"""Seconds of a processor and bytes of a test run: a loop that never ends is noticed by these."""

_COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
_OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Div,
    ast.Pow: ast.Mult,
    ast.Mod: ast.Mult,
}


@dataclass(frozen=True)
class Change:
    """One changed place.

    Args:
        file: below icl_bench.
        line: its number.
        before: the line as it was.
        after: what the changed part became.
        source: the whole file, changed.
    """

    file: str
    line: int
    before: str
    after: str
    source: str

    @property
    def name(self) -> str:
        """File, line as it stood and change, which do not move with the lines above."""
        return f"{self.file}: {self.before} -> {self.after}"


def find_places(tree: ast.AST) -> list[Any]:
    """Return the nodes of a module that can be changed, always in the same order.

    Types, messages, decorators and what is raised or asserted are left alone.

    Args:
        tree: the parsed module.
    """
    found: list[Any] = []

    def walk(node: ast.AST) -> None:
        if isinstance(node, (ast.Raise, ast.Assert, ast.JoinedStr, ast.Import, ast.ImportFrom)):
            return
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            return
        number = isinstance(node, ast.Constant) and isinstance(node.value, (int, float))
        operator = isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS
        compared = isinstance(node, ast.Compare) and type(node.ops[0]) in _COMPARISONS
        sign = isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.USub))
        branch = isinstance(node, (ast.BoolOp, ast.If, ast.IfExp, ast.While))
        if number or operator or compared or sign or branch:
            found.append(node)
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns", "decorator_list", "bases"):
                continue
            for part in value if isinstance(value, list) else [value]:
                if isinstance(part, ast.AST):
                    walk(part)

    walk(tree)
    return found


def change(node: Any, draw: random.Random) -> ast.AST:
    """Change a node in place, and return what of it to show.

    Args:
        node: one of `find_places`.
        draw: chooses where there are several ways.
    """
    if isinstance(node, ast.Constant):
        if isinstance(node.value, bool):
            node.value = not node.value
        elif isinstance(node.value, int):
            node.value += draw.choice([-1, 1])
        else:
            node.value = node.value * draw.choice([0.5, 2.0]) or 1.0
    elif isinstance(node, ast.BinOp):
        node.op = _OPERATORS[type(node.op)]()
    elif isinstance(node, ast.Compare):
        node.ops[0] = draw.choice(_COMPARISONS[type(node.ops[0])])()
    elif isinstance(node, ast.BoolOp):
        node.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
    elif isinstance(node, ast.UnaryOp):
        node.op = ast.UAdd() if isinstance(node.op, ast.USub) else ast.Not()
        if isinstance(node.op, ast.Not):
            node.operand = ast.UnaryOp(ast.Not(), node.operand)
    else:
        node.test = ast.UnaryOp(ast.Not(), node.test)
        return node.test
    return node


def draw_changes(count: int, seed: int) -> Iterator[Change]:
    """Yield changes at different places, each place as likely as any other.

    Args:
        count: how many.
        seed: of the places and of what they become.
    """
    draw = random.Random(seed)
    sources = {file: (ROOT / "icl_bench" / file).read_text() for file in COVER}
    places = [
        (file, number)
        for file, source in sources.items()
        for number in range(len(find_places(ast.parse(source))))
    ]
    for file, number in draw.sample(places, count):
        tree = ast.parse(sources[file])
        node = find_places(tree)[number]
        line = node.lineno
        shown = ast.unparse(change(node, draw))
        source = ast.unparse(ast.fix_missing_locations(tree))
        before = sources[file].splitlines()[line - 1].strip()
        yield Change(file, line, before, " ".join(shown.split()), source)


def preload() -> None:
    """Import what tests need and no change touches, once for all runs of them."""
    for name in ("torch", "transformers", "scipy.stats", "pandas", "plotly", "pydantic", "jinja2"):
        importlib.import_module(name)
    from transformers import LlamaForCausalLM  # noqa: F401


def notices(folder: Path, file: str) -> bool:
    """Return whether the tests of a file fail in a copy of the project, or hang.

    Args:
        folder: the copy.
        file: which one's tests, in the order of `COVER`.
    """
    names = COVER[file].split()
    child = multiprocessing.get_context("fork").Process(target=_run, args=(folder, names))
    child.start()
    child.join(LONGEST)
    if child.is_alive():
        child.kill()
        return True
    if child.exitcode in (4, 5):  # a wrong name of a test file, or no test in it
        raise RuntimeError(f"the tests of {file} end with {child.exitcode}")
    return child.exitcode != 0


def _run(folder: Path, names: list[str]) -> None:
    """Run test files in this process, and end it with pytest's exit code."""
    import resource  # there is none where there is no fork

    resource.setrlimit(resource.RLIMIT_DATA, (MOST_MEMORY, MOST_MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (MOST_WORK, MOST_WORK))
    sys.dont_write_bytecode = True  # the next change of the same second would not be read
    os.chdir(folder)
    os.environ.update(PYTHONPATH=str(folder), OMP_NUM_THREADS="1")
    sys.path.insert(0, str(folder))
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), 1)
        os.dup2(nothing.fileno(), 2)
    files = [f"tests/test_{name}.py" for name in names]
    quiet = "ignore::pytest.PytestAssertRewriteWarning"  # of what was imported before
    os._exit(int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-W", quiet, *files])))


def copy_project(folder: Path) -> None:
    """Copy the package into a folder, with links to everything else.

    Args:
        folder: an empty one.
    """
    for path in ROOT.iterdir():
        if path.name == "icl_bench":
            shutil.copytree(path, folder / path.name, ignore=shutil.ignore_patterns("__pycache__"))
        elif not path.name.startswith("."):
            (folder / path.name).symlink_to(path)
    compileall.compile_dir(folder / "icl_bench", quiet=1)


def main() -> int:
    """Try the changes, print those that were not noticed and a table, return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=60, help="places to change (default: 60)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--list", action="store_true", help="print the changes, run nothing")
    given = parser.parse_args()
    changes = list(draw_changes(given.count, given.seed))
    if given.list:
        print(*(f"{one.file}:{one.line}: {one.name}" for one in changes), sep="\n")
        return 0
    tried, noticed, same, survived = Counter[str](), Counter[str](), Counter[str](), 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copy_project(folder)
        preload()
        for names, file in {COVER[one.file]: one.file for one in changes}.items():
            if notices(folder, file):
                raise SystemExit(f"without any change one of these tests fails: {names}")
        for one in changes:
            start, room = time.monotonic(), one.file.partition("/")[0]
            target = folder / "icl_bench" / one.file
            sound = target.read_text()
            target.write_text(one.source)
            killed = notices(folder, one.file)
            target.write_text(sound)
            tried[room] += 1
            noticed[room] += killed
            equivalent = not killed and one.name in EQUIVALENT
            same[room] += equivalent
            survived += not killed and not equivalent
            verdict = "noticed" if killed else "equivalent" if equivalent else "SURVIVED"
            seconds = time.monotonic() - start
            print(f"{verdict} {one.file}:{one.line}: {one.name} ({seconds:.0f} s)", flush=True)
    print("\n| folder | changed | noticed | equivalent | not noticed |\n|---|---|---|---|---|")
    for room in sorted(tried):
        left = tried[room] - noticed[room] - same[room]
        print(f"| {room} | {tried[room]} | {noticed[room]} | {same[room]} | {left} |")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
