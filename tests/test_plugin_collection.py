"""What is collected, and under which ids."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest
from conftest import MINE, Stage

import icl_bench

CORE = Path(icl_bench.__file__).parents[1] / "suites" / "core.yaml"
GOOD = "--icl-model=stub:good"
BAD = "--icl-model=stub:bad"


def ids(stage: Stage, *arguments: str) -> list[str]:
    """Return the ids that a run would have."""
    result = stage.run("--collect-only", "-q", *arguments)
    assert result.ret == 0, result.stdout.str()
    return [line for line in result.outlines if "::" in line]


def mine(*slugs: str) -> list[str]:
    """Return the ids of `mine.yaml` for these models."""
    return [f"mine.yaml::{name}[{slug}]" for slug in slugs for name in ("high", "there", "low")]


def test_a_model_alone_runs_the_core_suite_and_nothing_else(stage: Stage) -> None:
    stage.write("tests/test_it.py", "def test_it(): pass")
    stage.pytester.makeini("[pytest]\ntestpaths = tests")
    found = ids(stage, GOOD)
    assert "suites/core.yaml::has-induction-heads[stub-good]" in found
    assert all(one.startswith("suites/core.yaml::") for one in found)
    stage.run("--collect-only", GOOD).stdout.fnmatch_lines(
        ["icl_bench: model stub-good; suite core", "icl_bench: only the suites are collected;*"]
    )


def test_a_model_in_addopts_does_the_same(stage: Stage) -> None:
    stage.write("tests/test_it.py", "def test_it(): pass")
    stage.pytester.makeini(f"[pytest]\ntestpaths = tests\naddopts = {GOOD}")
    assert all(one.startswith("suites/core.yaml::") for one in ids(stage))


def test_named_suites_run_instead_of_core(stage: Stage) -> None:
    assert ids(stage, GOOD, "--icl-suite=./mine.yaml") == mine("stub-good")
    both = ids(stage, GOOD, "--icl-suite=mine.yaml", "--icl-suite=core")
    assert both[:3] == mine("stub-good")
    assert all(one.startswith("suites/core.yaml::") for one in both[3:]) and len(both) > 3


def test_paths_are_collected_exactly(stage: Stage) -> None:
    stage.write("tests/test_it.py", "def test_it(): pass")
    assert ids(stage, GOOD, "mine.yaml") == mine("stub-good")
    assert ids(stage, GOOD, "tests") == ["tests/test_it.py::test_it"]
    assert ids(stage, GOOD, "tests", "--icl-suite=mine.yaml") == [
        "tests/test_it.py::test_it",
        *mine("stub-good"),
    ]


def test_a_folder_gives_its_suites_and_leaves_other_yaml_alone(stage: Stage) -> None:
    stage.write("below/deeper/mine.yml", MINE.replace("name: mine", "name: deep"))
    stage.write("below/other.yaml", "key: value\nicl_suite: 1\n")
    found = ids(stage, GOOD, "below")
    assert found == [f"below/deeper/{one}".replace("yaml", "yml") for one in mine("stub-good")]


def test_a_suite_by_name_and_by_path_counts_once(stage: Stage) -> None:
    found = ids(stage, GOOD, str(CORE), "--icl-suite=core", f"--icl-suite={CORE}")
    assert len(found) == len(set(found)) > 0
    assert ids(stage, GOOD, "mine.yaml", "--icl-suite=mine.yaml") == mine("stub-good")


def test_a_suite_through_a_link_is_the_suite(stage: Stage) -> None:
    (stage.path / "link.yaml").symlink_to(stage.path / "mine.yaml")
    result = stage.run(GOOD, "mine.yaml", "--icl-suite=link.yaml")
    assert result.ret == 0
    assert ids(stage, GOOD, "--icl-suite=link.yaml", "--icl-suite=mine.yaml")[:3] == [
        one.replace("mine.yaml", "link.yaml") for one in mine("stub-good")
    ]


def test_without_a_model_suites_of_a_folder_are_skipped_with_the_reason(stage: Stage) -> None:
    result = stage.run("-rs", ".")
    result.assert_outcomes(skipped=3)
    assert result.ret == 0
    result.stdout.fnmatch_lines(["SKIPPED*no model given: use --icl-model=SPEC"])
    assert not (stage.path / "reports").exists()


@pytest.mark.parametrize("model", [[], [GOOD]], ids=["without a model", "with one"])
@pytest.mark.parametrize(
    "option",
    ["--collect-only", "--markers", "--fixtures", "--fixtures-per-test", "--cache-show", "--help"],
)
def test_what_there_is_can_be_listed(stage: Stage, option: str, model: list[str]) -> None:
    stage.write("pytest.ini", "[pytest]\naddopts = --icl-suite=mine.yaml")
    assert stage.run(option, *model).ret == 0
    assert stage.log() == [] and not (stage.path / "reports").exists()


def test_a_plan_of_set_up_measures_nothing(stage: Stage) -> None:
    assert stage.run(GOOD, "mine.yaml", "--setup-plan").ret == 0
    assert stage.log() == [] and not (stage.path / "reports").exists()


def test_ids_do_not_depend_on_rootdir(stage: Stage) -> None:
    foreign = stage.path / "foreign"
    foreign.mkdir()
    found = ids(stage, GOOD, f"--rootdir={foreign}")
    assert "suites/core.yaml::has-induction-heads[stub-good]" in found
    # A suite outside rootdir has an id too, or --lf and --deselect could not tell items apart.
    outside = ids(stage, GOOD, f"--rootdir={foreign}", "mine.yaml")
    assert outside == [f"{stage.path.name}/{one}" for one in mine("stub-good")]


def test_another_projects_settings_make_no_difference(stage: Stage) -> None:
    stage.write("pyproject.toml", "[tool.pytest.ini_options]\ntestpaths = ['checks']")
    stage.write("checks/test_it.py", "def test_it(): pass")
    assert ids(stage) == ["checks/test_it.py::test_it"]
    assert all(one.startswith("suites/core.yaml::") for one in ids(stage, GOOD))


@pytest.mark.parametrize("given", [[], ["."]])
def test_suites_inside_an_environment_are_not_collected(stage: Stage, given: list[str]) -> None:
    stage.write(".venv/pyvenv.cfg", "home = /usr\n")
    stage.write(".venv/lib/site-packages/icl_bench/suites/core.yaml", CORE.read_text())
    stage.write("env/pyvenv.cfg", "home = /usr\n")
    stage.write("env/bin/activate", "")  # what older pytests go by
    stage.write("env/broken.yaml", "icl_suite: 1\nname: [")
    found = ids(stage, *given)
    assert found == [f"mine.yaml::{name}" for name in ("high", "there", "low")]
    assert ids(stage, GOOD, ".") == mine("stub-good")


def test_ignored_suites_are_neither_run_nor_checked(stage: Stage) -> None:
    stage.write("bad/broken.yaml", "icl_suite: 1\nname: [")
    stage.write("worse.yaml", "icl_suite: 1\nname: [")
    stage.write("conftest.py", "collect_ignore = ['worse.yaml']")
    assert ids(stage, GOOD, ".", "--ignore=bad") == mine("stub-good")
    assert ids(stage, GOOD, ".", "--ignore-glob=*/broken*") == mine("stub-good")


def test_a_suite_that_was_not_found_at_the_start_says_what_to_do(stage: Stage) -> None:
    stage.write(
        "conftest.py",
        "from pathlib import Path\n"
        "def pytest_collection(session):\n"
        "    Path('new.yaml').write_text(Path('mine.yaml').read_text().replace('mine', 'new'))",
    )
    result = stage.run(GOOD, ".")
    assert result.ret == 2
    result.stdout.fnmatch_lines(["new.yaml: this suite was not there when the run began;*"])


def test_k_and_m_and_deselect_choose_checks(stage: Stage) -> None:
    assert ids(stage, GOOD, "mine.yaml", "-k", "high or low") == [
        "mine.yaml::high[stub-good]",
        "mine.yaml::low[stub-good]",
    ]
    stage.write("test_it.py", "def test_it(): pass")
    assert ids(stage, GOOD, ".", "-m", "icl", "--strict-markers") == mine("stub-good")
    assert ids(stage, GOOD, ".", "-m", "not icl") == ["test_it.py::test_it"]
    assert ids(stage, GOOD, "mine.yaml", "--deselect=mine.yaml::high[stub-good]") == [
        "mine.yaml::there[stub-good]",
        "mine.yaml::low[stub-good]",
    ]
    core = ids(stage, GOOD, "--deselect=suites/core.yaml::has-induction-heads[stub-good]")
    assert core and "suites/core.yaml::has-induction-heads[stub-good]" not in core


def test_ids_are_arguments(stage: Stage) -> None:
    models = (GOOD, BAD)
    assert ids(stage, *models, "mine.yaml::high") == [
        "mine.yaml::high[stub-good]",
        "mine.yaml::high[stub-bad]",
    ]
    assert ids(stage, *models, "mine.yaml::high[stub-bad]") == ["mine.yaml::high[stub-bad]"]
    # The id of a shipped suite is no path of the user's, but it is what a failure shows.
    shipped = "suites/core.yaml::has-induction-heads[stub-bad]"
    assert ids(stage, *models, shipped) == [shipped]
    assert ids(stage, "suites/core.yaml::has-induction-heads") == [
        "suites/core.yaml::has-induction-heads"
    ]


def test_lf_reruns_the_failed_check_only(stage: Stage) -> None:
    assert stage.run(BAD, "mine.yaml").ret == 1
    result = stage.run(BAD, "mine.yaml", "--lf", "-v")
    result.assert_outcomes(failed=1, deselected=2)
    result.stdout.fnmatch_lines(["mine.yaml::high?stub-bad? FAILED*"])
    # Another process finds the same items.
    stage.run(BAD, "mine.yaml", "--lf").assert_outcomes(failed=1, deselected=2)


def test_lf_reruns_failed_checks_of_shipped_suites_too(stage: Stage, tmp_path: Path) -> None:
    # A suite outside rootdir: pytest alone would give all its checks one empty id.
    shipped = tmp_path / "installed" / "suites"
    shipped.mkdir(parents=True)
    (shipped / "shipped.yaml").write_text(MINE.replace("name: mine", "name: shipped"))
    arguments = (BAD, "mine.yaml", f"--icl-suite={shipped / 'shipped.yaml'}")
    stage.run(*arguments).assert_outcomes(failed=2, passed=4)
    result = stage.run(*arguments, "--lf", "-v")
    result.assert_outcomes(failed=2, deselected=4)
    result.stdout.fnmatch_lines(
        ["mine.yaml::high?stub-bad? FAILED*", "suites/shipped.yaml::high?stub-bad? FAILED*"]
    )


def test_x_stops_at_the_first_failure(stage: Stage) -> None:
    stage.run(BAD, "mine.yaml", "-x").assert_outcomes(failed=1)


@pytest.mark.parametrize(
    "option", ["-p no:cacheprovider", "-p no:terminal", "-q", "-v", "-p no:warnings", "-p no:xdist"]
)
def test_checks_run_under_other_options(stage: Stage, option: str) -> None:
    result = stage.run(GOOD, "mine.yaml", *option.split())
    assert result.ret == 0
    assert stage.verdicts("stub-good") == {"high": "pass", "there": "pass", "low": "pass"}


def test_junit_xml_holds_values_and_verdicts(stage: Stage) -> None:
    stage.run(BAD, "mine.yaml", "--junit-xml=out.xml")
    cases = {
        case.get("name"): case
        for case in ElementTree.parse(stage.path / "out.xml").getroot().iter("testcase")
    }
    assert set(cases) == {"high[stub-bad]", "there[stub-bad]", "low[stub-bad]"}
    high = cases["high[stub-bad]"]
    properties = {one.get("name"): one.get("value") for one in high.iter("property")}
    assert properties["icl.metric"] == "level" and properties["icl.value"] == "0.0"
    assert properties["icl.verdict"] == "fail"
    failure = high.find("failure")
    assert failure is not None and "required > 0.5" in str(failure.get("message"))


def test_slugs_that_clash_are_told_apart(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    for parent in ("a", "b"):
        stage.write(f"{parent}/model/config.json", "{}")
    monkeypatch.setattr("icl_bench.running.job.check_spec", lambda spec, allow_pickle: None)
    found = ids(stage, "--icl-model=a/model", "--icl-model=b/model", "mine.yaml")
    assert len(set(found)) == 6
    assert all("[a-model]" in one for one in found[:3])
    assert all("[b-model]" in one for one in found[3:])


def test_the_same_model_twice_counts_once(stage: Stage) -> None:
    assert ids(stage, GOOD, GOOD, "mine.yaml") == mine("stub-good")


def test_checks_are_ordered_by_model(stage: Stage) -> None:
    stage.write("more.yaml", MINE.replace("name: mine", "name: more"))
    found = ids(stage, GOOD, BAD, "mine.yaml", "more.yaml")
    assert ["stub-good" in one for one in found] == [True] * 6 + [False] * 6


def test_a_suite_of_testpaths_is_found_on_the_way(stage: Stage) -> None:
    stage.write("pytest.ini", "[pytest]\ntestpaths = mine.yaml test_it.py")
    stage.write("test_it.py", "def test_it(): pass")
    result = stage.run("-rs")
    result.assert_outcomes(passed=1, skipped=3)
    result.stdout.fnmatch_lines(["SKIPPED*no model given: use --icl-model=SPEC"])


def test_an_id_of_a_run_beside_other_models_is_known(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    for parent in ("a", "b"):
        stage.write(f"{parent}/it/config.json", "{}")
    monkeypatch.setattr("icl_bench.running.job.check_spec", lambda spec, allow_pickle: None)
    both = ids(stage, "--icl-model=a/it", "--icl-model=b/it", "mine.yaml")
    assert "mine.yaml::high[b-it]" in both
    alone = ids(stage, "--icl-model=b/it", "mine.yaml::high[b-it]")
    assert alone == ["mine.yaml::high[it]"]


def test_tests_of_a_model_are_found_by_its_name_in_any_letters(stage: Stage) -> None:
    stage.write("test_it.py", "def test_one(icl_model): pass\ndef test_other(): pass")
    named = "--icl-model=モデル=stub:good"
    assert stage.run(named, "test_it.py", "-k", "モデル").parseoutcomes()["passed"] == 1
    assert stage.run(named, "test_it.py::test_one[モデル]").parseoutcomes() == {"passed": 1}
