"""The rooms keep their order: imports run one way, and start-up stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "icl_bench"

MAY_IMPORT = {
    "errors": set(),
    "provenance": set(),
    "upgrades": {"errors"},
    "rows": set(),
    "naming": set(),
    "record": {"errors", "naming", "options", "rows", "upgrades"},
    "series": {"record"},
    "measures": {"errors", "record"},
    "reference": {"errors"},
    "tasks": {"errors"},
    "probes": {"errors", "record", "series", "measures", "models", "tasks"},
    "suite": {"errors", "probes"},
    "plan": {"errors", "probes", "suite"},
    "options": {"errors"},
    "models": {"errors", "measures", "naming", "reference", "options", "provenance"},
    "render": {"errors", "naming", "record"},
    "ci": {"errors", "record", "render"},
    "comparing": {"errors", "record", "measures", "probes"},
    "ranking": {"errors", "record", "measures", "probes"},
    "leaderboard": {"errors", "record", "render", "ranking"},
    "checks": {"errors", "record", "suite", "probes", "render"},
    "presence": set(),
    "cache": {"errors", "options", "record", "models", "presence"},
    "description": {"record", "models", "cache"},
    "memory": {"errors", "provenance", "options", "record", "models", "probes", "plan", "cache"},
    "results": {"record", "probes", "plan", "checks", "description"},
    "progress": {"errors", "record", "render", "probes", "plan"},
    "judging": {
        *("errors", "options", "record", "rows", "probes", "models", "plan", "checks", "results"),
        "progress",
    },
    "runner": {
        *("errors", "options", "record", "probes", "models", "plan", "checks"),
        *("cache", "description", "memory", "judging", "progress"),
    },
    "series_run": {
        *("errors", "options", "provenance", "record", "series", "probes", "models", "plan"),
        *("cache", "judging", "results", "runner", "progress"),
    },
}
"""Room -> rooms it may import; `api`, `session`, `items`, `commands`, `cli` may all."""

HEAVY = ("torch", "transformers", "pandas", "scipy", "numpy", "pydantic", "yaml")


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(source: str) -> set[str]:
    """Rooms imported at run time; imports for type checking alone do not count."""
    found = set()
    tree = ast.parse(source)
    for parent in ast.walk(tree):
        if isinstance(parent, ast.If) and "TYPE_CHECKING" in ast.dump(parent.test):
            parent.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
            if node.module == "icl_bench":
                names = [f"icl_bench.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        found |= {n.split(".")[1] for n in names if n.startswith("icl_bench.")}
    return found - {"__version__"}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.name))
def test_imports_run_one_way(path):
    room = room_of(path)
    allowed = MAY_IMPORT.get(room)
    if allowed is not None:
        assert imported_rooms(path.read_text()) <= allowed | {room}


def test_the_rule_about_imports_can_fail():
    assert imported_rooms("from icl_bench.runner import ModelRun") == {"runner"}
    assert imported_rooms("import icl_bench.cli\nfrom icl_bench import api") == {"cli", "api"}
    hidden = "if TYPE_CHECKING:\n    from icl_bench.runner import ModelRun"
    assert imported_rooms(hidden) == set()


def loaded_after(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint(*[m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_every_package_is_installed():
    tomllib = pytest.importorskip("tomllib")
    data = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())
    listed = set(data["tool"]["setuptools"]["packages"])
    found = {
        ".".join(path.parent.relative_to(PACKAGE.parent).parts)
        for path in PACKAGE.rglob("__init__.py")
    }
    assert found <= listed and listed - found == {"icl_bench.suites"}


def test_importing_the_package_loads_nothing_heavy():
    assert loaded_after("import icl_bench") == set()
    assert loaded_after("import icl_bench.plugin") == set()
    assert loaded_after("import icl_bench.integrations") == set()


def test_the_command_line_is_read_without_anything_heavy():
    assert loaded_after("import icl_bench.cli; icl_bench.cli.make_parser()") == set()


def test_gates_are_made_without_torch():
    statement = (
        "from icl_bench.integrations import Keeps, Passes, Reaches\n"
        "Reaches('induction_max', above=0.4, by_step=10), Keeps('gain', within=1), Passes('gate')"
    )
    assert loaded_after(statement) & {"torch", "transformers", "pandas"} == set()


def test_the_names_for_training_loops_are_those_of_the_docs():
    from icl_bench import integrations

    text = (PACKAGE.parent / "docs" / "training.md").read_text()
    for name in integrations.__all__:
        assert callable(getattr(integrations, name))
        assert name in text
    assert dir(integrations) == sorted(integrations.__all__)


def test_nothing_else_imports_the_integrations():
    for path in PACKAGE.rglob("*.py"):
        if room_of(path) != "integrations":
            assert "integrations" not in imported_rooms(path.read_text())


def test_the_test_about_heavy_imports_can_fail():
    assert "numpy" in loaded_after("import icl_bench, icl_bench.measures.draws")


def test_records_and_checks_need_neither_torch_nor_pandas():
    statement = (
        "import icl_bench.record, icl_bench.checks, icl_bench.plan, icl_bench.render.terminal, "
        "icl_bench.render.markdown, icl_bench.render.files, icl_bench.suite.loading, "
        "icl_bench.probes.induction, icl_bench.probes.ablation, icl_bench.probes.choice, "
        "icl_bench.probes.fewshot, icl_bench.probes.fuzzy, icl_bench.probes.function_vectors, "
        "icl_bench.cli, icl_bench.ci.publishing, icl_bench.models.spec, icl_bench.reference, "
        "icl_bench.ranking, icl_bench.render.leaderboard, icl_bench.render.html.leaderboard\n"
        "icl_bench.plan.make_plan([icl_bench.suite.find_suite('core')])"
    )
    assert loaded_after(statement) & {"torch", "transformers", "pandas"} == set()


def test_every_probe_metric_is_in_the_docs():
    from icl_bench.probes import PROBES, get_probe

    text = (PACKAGE.parent / "docs" / "suites.md").read_text()
    for name in PROBES:
        probe = get_probe(name)
        for metric in [*probe.metrics, *probe.settings.model_fields]:
            assert f"`{metric}`" in text, f"docs/suites.md does not name {metric} of {name}"


def test_every_row_of_the_probe_table_is_a_probe():
    from icl_bench.errors import SettingsError
    from icl_bench.probes import PROBES, get_probe

    for name in PROBES:
        probe = get_probe(name)
        assert callable(getattr(probe.module, "measure_series" if probe.is_series else "measure"))
    with pytest.raises(SettingsError, match="did you mean 'induction'"):
        get_probe("inducton")
