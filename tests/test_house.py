"""The rooms keep their order: imports run one way, and start-up stays light."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "icl_bench"

FLOORS: dict[str, str] = {
    "__init__": "",
    "errors": "",
    "executors": "",
    "naming": "",
    "provenance": "",
    "extensions": "errors",
    "models.module": "errors",
    "options": "errors",
    "reference": "errors",
    "tasks": "errors",
    "models.sources": "errors extensions models.module naming options provenance reference",
    "models.sources.gguf": "errors models.module models.sources",
    "models.sources.adapters": "errors models.module models.sources provenance",
    "records": "errors naming options provenance",
    "measures": "errors records",
    "probes": "errors extensions provenance records",
    "record": "records",
    "render.writing": "records",
    "models.attention": "errors measures models.module",
    "render": "__init__ probes records render.writing",
    "ci": "records render render.writing",
    "models.residual": "errors models.attention models.module",
    "render.html": "__init__ probes records render render.writing",
    "models": "errors measures models.attention models.module models.residual",
    "models.circuits": "errors measures models models.attention models.module models.residual",
    "models.opening": "errors models models.module models.sources options provenance",
    "probes.design": "errors measures models models.attention models.circuits records",
    "comparing": "errors measures probes probes.design records",
    "probes.heads": "errors measures models.attention models.circuits probes probes.design records",
    "probes.prompts": "errors measures models probes.design tasks",
    "probes.training": "errors measures probes probes.design records",
    "progress": "probes.design records render.writing",
    "ranking": "errors measures naming probes probes.design records",
    "suite": "errors measures probes probes.design",
    "probes.ablations": (
        "errors measures models models.attention models.circuits probes probes.design "
        "probes.heads records"
    ),
    "probes.example": (
        "errors measures models models.circuits probes probes.design probes.prompts records"
    ),
    "probes.texts": (
        "errors measures models models.attention models.circuits probes probes.design "
        "probes.prompts records tasks"
    ),
    "reports": "errors extensions naming options ranking records render render.html render.writing",
    "running": (
        "__init__ ci comparing errors executors models.module models.opening models.sources naming "
        "options probes probes.design progress provenance records render render.writing "
        "reports suite"
    ),
    "diffing": (
        "comparing errors measures models models.attention models.circuits models.module "
        "models.residual models.sources naming probes probes.design probes.prompts progress "
        "records render.writing running suite"
    ),
    "mutating": (
        "comparing errors measures models models.attention models.module models.opening "
        "models.residual models.sources probes probes.ablations probes.design probes.prompts "
        "provenance records render render.html render.writing reports running"
    ),
    "api": (
        "diffing errors measures models models.attention models.circuits models.module "
        "models.opening models.sources mutating naming options probes.ablations probes.design "
        "probes.heads progress records reports running suite"
    ),
    "commands": (
        "__init__ ci comparing diffing errors models.sources.gguf mutating options "
        "probes progress ranking records reference render render.writing reports running suite"
    ),
    "integrations": (
        "comparing errors measures models.module models.opening models.sources naming options "
        "probes records render render.writing running suite"
    ),
    "cli": "__init__ commands errors render.writing",
    "plugin": (
        "api ci comparing errors models.sources naming options progress records render "
        "render.writing running suite"
    ),
}
"""Room -> rooms it may import, all of them above it in this table. A folder is a room, and so is a
file at the top of the package; imports inside functions count."""

MOST_FILES = 20
"""Python files of one folder; a fuller one is two rooms."""

HEAVY = (
    *("torch", "transformers", "pandas", "scipy", "numpy", "pydantic", "yaml"),
    *("scipy.stats", "scipy.optimize", "scipy.special"),
)
SLOW = {"torch", "transformers", "pandas", "scipy"}
"""What takes a quarter of a second or more to import."""


FILES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
"""Full name of each module -> its file."""


def room_of(module: str) -> str:
    path = FILES[module]
    folder = path.parent.relative_to(PACKAGE).parts
    return ".".join(folder) or path.stem


def imported(source: str) -> set[str]:
    """Modules of the package that are imported at run time, also inside functions.

    Imports for type checking alone do not count.
    """
    found = set()
    tree = ast.parse(source)
    for parent in ast.walk(tree):
        if isinstance(parent, ast.If) and "TYPE_CHECKING" in ast.dump(parent.test):
            parent.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full in FILES else node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Call) and "import_module" in ast.dump(node.func):
            found |= {arg.value for arg in node.args if isinstance(arg, ast.Constant)}
    return found & FILES.keys()


IMPORTS = {name: imported(path.read_text()) - {name} for name, path in FILES.items()}


def circles(graph: dict[str, set[str]]) -> set[str]:
    """Nodes from which some way leads back to themselves."""
    graph = {node: set(targets) for node, targets in graph.items()}
    while ends := [node for node, targets in graph.items() if not targets]:
        for node in ends:
            del graph[node]
        for targets in graph.values():
            targets.difference_update(ends)
    # What is left leads into a circle; what nothing leads to is not part of one.
    while starts := graph.keys() - set().union(*graph.values()):
        for node in starts:
            del graph[node]
    return set(graph)


def test_every_room_is_in_the_table_and_nothing_else_is():
    assert {room_of(name) for name in FILES} == FLOORS.keys()


def test_a_room_imports_only_rooms_above_it_in_the_table():
    order = list(FLOORS)
    for place, (room, allowed) in enumerate(FLOORS.items()):
        assert set(allowed.split()) <= set(order[:place]), room


@pytest.mark.parametrize("name", FILES)
def test_imports_run_one_way(name):
    room = room_of(name)
    assert {room_of(other) for other in IMPORTS[name]} - {room} <= set(FLOORS[room].split())


def test_no_arrow_of_the_table_is_without_an_import():
    for room, allowed in FLOORS.items():
        used = {
            room_of(other) for name in FILES if room_of(name) == room for other in IMPORTS[name]
        }
        assert set(allowed.split()) <= used, room


def test_no_files_import_each_other_in_a_circle():
    assert circles(IMPORTS) == set()


def test_the_rules_about_imports_can_fail():
    name = "icl_bench.running.model_run"
    assert imported(f"from {name} import ModelRun") == {name}
    assert imported("import icl_bench.cli\nfrom icl_bench.running import model_run") == {
        "icl_bench.cli",
        name,
    }
    assert imported(f"def later():\n    from {name} import ModelRun") == {name}
    assert imported(f"importlib.import_module({name!r})") == {name}
    assert imported(f"if TYPE_CHECKING:\n    from {name} import ModelRun") == set()
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set(), "e": {"d"}}) >= {"b", "c"}
    assert circles({"a": {"b"}, "b": set()}) == set()


def test_no_folder_is_crowded():
    for folder in {path.parent for path in FILES.values()}:
        assert len(list(folder.glob("*.py"))) <= MOST_FILES, folder


def loaded_after(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint(*[m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_slow_files_are_there():
    from conftest import SLOW_FILES

    assert {path.name for path in Path(__file__).parent.glob("test_*.py")} >= SLOW_FILES


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
    assert loaded_after(statement) & SLOW == set()


def test_the_names_for_training_loops_are_those_of_the_docs():
    from icl_bench import integrations

    text = (PACKAGE.parent / "docs" / "training.md").read_text()
    for name in integrations.__all__:
        assert callable(getattr(integrations, name))
        assert name in text
    assert dir(integrations) == sorted(integrations.__all__)


def test_nothing_else_imports_the_integrations():
    assert not any("integrations" in allowed.split() for allowed in FLOORS.values())


def test_the_test_about_heavy_imports_can_fail():
    assert "numpy" in loaded_after("import icl_bench, icl_bench.measures.draws")
    assert "scipy.stats" in loaded_after("import scipy.stats")


def test_records_and_checks_need_neither_torch_nor_pandas():
    modules = (
        *("records.record", "running.checks", "suite.plan", "render.terminal", "render.markdown"),
        *("reports.files", "suite.loading", "probes.heads.induction", "probes.texts.choice"),
        *("probes.ablations.ablation", "probes.texts.fewshot", "probes.texts.fuzzy"),
        *("probes.texts.function_vectors", "cli", "ci.publishing", "models.sources.spec"),
        *("reference", "ranking", "render.leaderboard", "render.html.leaderboard"),
    )
    names = ", ".join(f"icl_bench.{module}" for module in modules)
    plan = "icl_bench.suite.plan.make_plan([icl_bench.suite.find_suite('core')])"
    statement = f"import {names}; {plan}"
    assert loaded_after(statement) & SLOW == set()


def test_every_probe_metric_is_in_the_docs():
    from icl_bench.probes import PROBES, get_probe

    text = (PACKAGE.parent / "docs" / "probes.md").read_text()
    for name in PROBES:
        probe = get_probe(name)
        for metric in [*probe.metrics, *probe.settings.model_fields]:
            assert f"`{metric}`" in text, f"docs/probes.md does not name {metric} of {name}"


def test_every_row_of_the_probe_table_is_a_probe():
    from icl_bench.errors import SettingsError
    from icl_bench.probes import PROBES, get_probe

    for name in PROBES:
        probe = get_probe(name)
        assert probe.name == name and probe.summary and probe.metrics
        assert (probe.measure is None) == probe.is_series
    with pytest.raises(SettingsError, match="did you mean 'induction'"):
        get_probe("inducton")


def test_notes_name_files_that_are_there():
    root = PACKAGE.parent
    notes = [
        *PACKAGE.rglob("NOTES.md"),
        root / "docs" / "architecture.md",
        root / "CONTRIBUTING.md",
    ]
    assert len(notes) > 2
    for note in notes:
        text = note.read_text()
        for name in re.findall(r"`([\w/]+\.(?:py|yaml|md))`", text):
            places = [base / name for base in (note.parent, PACKAGE, root)]
            assert any(place.exists() for place in places), f"{note.name}: {name}"
        for target in re.findall(r"\]\(([^)#:]+)[^)]*\)", text):
            assert (note.parent / target).exists(), f"{note}: {target}"


def test_documented_names_stay_where_they_are():
    from icl_bench import api, cli, integrations, plugin, record
    from icl_bench.measures.statistics import mean_metric
    from icl_bench.records import parts, reading
    from icl_bench.records.record import RunRecord
    from icl_bench.reference.handwired import HEADS

    for name in ("Measurement", "Metric", "Check", "ModelInfo"):
        assert getattr(record, name) is getattr(parts, name)
    assert record.RunRecord is RunRecord and record.read_record is reading.read_record
    assert callable(cli.main) and callable(plugin.pytest_addoption)
    assert callable(api.run) and callable(api.wrap) and callable(api.load_model)
    assert integrations.TrainingGate.__name__ == "TrainingGate"
    assert mean_metric([0.0, 1.0], unit="nats").value == 0.5
    assert HEADS
