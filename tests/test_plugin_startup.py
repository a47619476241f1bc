"""In projects that do not use it, the plugin costs nothing and writes nothing."""

from __future__ import annotations

import pytest
from conftest import TINY

HEAVY = ("torch", "transformers", "pandas", "pydantic", "scipy", "numpy")

LISTING = f"""
import sys

def test_it():
    found = [name for name in {HEAVY} if name in sys.modules]
    assert "icl_bench.plugin" in sys.modules
    assert not found, found
"""


def run(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    """Run a test that fails when a heavy library is loaded, beside YAML that is no suite."""
    pytester.makepyfile(test_it=LISTING)
    (pytester.path / "config.yaml").write_text("key: value\n")
    (pytester.path / "more.yml").write_text("# a comment\n- icl_suite: 1\n")
    return pytester.runpytest_subprocess(*arguments)


def files(pytester: pytest.Pytester) -> set[str]:
    """Return the names in the folder, those that pytest and pytester make left out."""
    kept = {path.name for path in pytester.path.iterdir() if "runpytest" not in path.name}
    known = {"__pycache__", ".pytest_cache", "stdout", "stderr"}
    return kept - {*known, "test_it.py", "config.yaml", "more.yml"}


@pytest.mark.parametrize("arguments", [[], ["."]], ids=["no path", "a folder"])
def test_no_heavy_library_is_imported(pytester: pytest.Pytester, arguments: list[str]) -> None:
    result = run(pytester, *arguments)
    result.assert_outcomes(passed=1)
    assert files(pytester) == set()
    assert "icl_bench:" not in result.stdout.str()


@pytest.mark.parametrize("library", HEAVY[3:])
def test_the_test_above_can_fail(pytester: pytest.Pytester, library: str) -> None:
    pytester.makeconftest(f"import {library}")
    result = run(pytester)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"*AssertionError: ?*'{library}'*"])


def test_a_suite_without_a_model_imports_no_torch(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_it="import sys\ndef test_it(): assert not {'torch', 'transformers'} & {*sys.modules}"
    )
    pytester.makefile(".yaml", mine=TINY)
    result = pytester.runpytest_subprocess(".")
    result.assert_outcomes(passed=1, skipped=2)
    assert not (pytester.path / "reports").exists()


def test_the_fixtures_skip_without_importing_anything(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_it=LISTING + "\ndef test_model(icl_model): pass\ndef test_api(icl): pass"
    )
    result = pytester.runpytest_subprocess("-rs")
    result.assert_outcomes(passed=1, skipped=2)
    result.stdout.fnmatch_lines(["SKIPPED*no model given: use --icl-model=SPEC"])
