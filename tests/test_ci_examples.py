"""The example workflows: they parse, their options exist, and their test step does what it says."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from waiting import HANG

from icl_bench.cli import make_parser

ROOT = Path(__file__).parents[1]
GITHUB = ROOT / "examples" / "github-workflow.yml"
GITLAB = ROOT / "examples" / "gitlab-ci.yml"
TEXTS = [GITHUB, GITLAB, ROOT / "docs" / "ci.md"]


def plugin_options() -> set[str]:
    """Names of the options that the plugin declares."""
    from icl_bench import plugin

    found: set[str] = set()

    class Group:
        def addoption(self, name: str, **rest: object) -> None:
            found.add(name)

    class Parser:
        def getgroup(self, *rest: object) -> Group:
            return Group()

    plugin.pytest_addoption(Parser())  # type: ignore[arg-type]
    return found


def command_options() -> dict[str, set[str]]:
    """Command of `icl-bench` -> its options."""
    parser, names = make_parser()
    [commands] = [action for action in parser._actions if isinstance(action.choices, dict)]
    assert isinstance(commands.choices, dict)
    return {name: set(commands.choices[name]._option_string_actions) for name in names}


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_every_option_that_is_named_exists(path: Path) -> None:
    text = path.read_text()
    named = set(re.findall(r"--icl-[a-z-]+", text))
    assert named and named <= plugin_options()
    commands = command_options()
    for command, rest in re.findall(r"icl-bench (run|compare|report)([^\n`]*)", text):
        assert set(re.findall(r"--[a-z-]+", rest)) <= commands[command]


def test_the_test_above_can_fail() -> None:
    assert "--icl-basline" not in plugin_options() and "--icl-model" in plugin_options()
    assert "--baseline" in command_options()["run"]
    assert "--baseline" not in command_options()["compare"]


def github_steps() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    data = yaml.safe_load(GITHUB.read_text())
    [job] = data["jobs"].values()
    return data, job["steps"]


def test_the_workflow_for_github_is_one() -> None:
    data, steps = github_steps()
    # YAML 1.1 reads the key `on` as true.
    assert {"name", True, "permissions", "env", "jobs"} == data.keys()
    assert data["permissions"] == {"contents": "read"}
    for step in steps:
        assert ("uses" in step) != ("run" in step)
        assert re.fullmatch(r"actions/[a-z-]+@v\d+", step.get("uses", "actions/x@v1"))
    cached = next(step for step in steps if step.get("uses", "").startswith("actions/cache@"))
    assert "~/.cache/huggingface" in cached["with"]["path"]
    assert "~/.cache/icl_bench" in cached["with"]["path"]
    assert next(s for s in steps if s.get("name") == "Keep the report")["if"] == "always()"


def test_the_job_for_gitlab_is_one() -> None:
    [job] = yaml.safe_load(GITLAB.read_text()).values()
    words = shlex.split(job["script"][0])
    reports = job["artifacts"]["reports"]
    assert f"--junitxml={reports['junit']}" in words
    assert f"--icl-code-quality={reports['codequality']}" in words
    assert f"--icl-openmetrics={reports['metrics']}" in words
    assert job["artifacts"]["when"] == "always"
    for name in ("PIP_CACHE_DIR", "HF_HOME", "ICL_BENCH_CACHE"):
        assert job["variables"][name].startswith("$CI_PROJECT_DIR/.cache/")


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Run lines of a workflow in a repository of its own; returns the finished process."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("needs bash")
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, module in (("pytest", "pytest"), ("icl-bench", "icl_bench.cli")):
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" -m {module} "$@"\n')
        (programs / name).chmod(0o755)
    repository = tmp_path / "repository"
    repository.mkdir()
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    monkeypatch.setenv("GITHUB_WORKSPACE", str(repository))

    def run(lines: str, model: str) -> subprocess.CompletedProcess[str]:
        # As GitHub does: bash -e -o pipefail.
        return subprocess.run(
            [bash, "-eo", "pipefail", "-c", lines],
            cwd=repository,
            env={**os.environ, "MODEL": model, "BASELINE": "baselines/gate.json"},
            capture_output=True,
            text=True,
            timeout=HANG,
        )

    return run


def test_the_steps_of_the_workflow_do_what_they_say(shell, tmp_path: Path) -> None:
    _, steps = github_steps()
    step = next(step for step in steps if step.get("name") == "Test circuits")
    [making] = re.findall(r"#   (icl-bench run MODEL .*)", GITHUB.read_text())
    good = "builtin:induction-2l"
    made = shell(making.replace("MODEL", good), good)
    assert made.returncode == 0, made.stdout + made.stderr
    (tmp_path / "summary.md").unlink()
    same = shell(step["run"], good)
    assert same.returncode == 0, same.stdout + same.stderr
    assert "::error" not in same.stdout and "no regression" in same.stdout
    assert "**no regression" in (tmp_path / "summary.md").read_text()
    kept = next(s for s in steps if s.get("name") == "Keep the report")["with"]["path"].split()
    assert all((tmp_path / "repository" / path).exists() for path in kept)
    changed = shell(step["run"], "builtin:control-1l")
    assert changed.returncode == 1
    assert "::error title=gate" in changed.stdout and "REGRESSION" in changed.stdout
    assert "**REGRESSION" in (tmp_path / "summary.md").read_text()
