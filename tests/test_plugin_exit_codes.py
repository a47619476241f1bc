"""A user's mistake ends in exit code 4, with one message and nothing run."""

from __future__ import annotations

import pytest
from conftest import MINE, Stage

GOOD = "--icl-model=stub:good"
RUN = [GOOD, "mine.yaml"]

FILES = {
    "broken.yaml": "icl_suite: 1\nname: [",
    "empty.yaml": "icl_suite: 1\nname: empty\n",
    "below/probe.yaml": MINE.replace("probe: stub}", "probe: stup}", 1),
    "metric.yaml": MINE.replace("metric: exact", "metric: exat"),
    "again.yaml": MINE.replace("description: What", "description: Not what"),
    "model.gguf": "not a model",
    "taken": "a file",
    "one.safetensors": "",
    "others/test_other.py": "def test_it(icl_model): pass",
    "others/mine.yaml": MINE,
}

MISTAKES = {
    "a built-in model that is not there": (
        ["--icl-model=builtin:handwire"],
        "*'builtin:handwire'*did you mean 'handwired'?",
    ),
    "a shipped suite that is not there": (
        [GOOD, "--icl-suite=cor"],
        "*'cor'; did you mean 'core'?",
    ),
    "a suite file that is not there": ([GOOD, "--icl-suite=x.yaml"], "x.yaml: no such suite file"),
    "broken YAML by path": ([GOOD, "broken.yaml"], "broken.yaml:2:*YAML: *"),
    "broken YAML without a model": (["broken.yaml"], "broken.yaml:2:*YAML: *"),
    "broken YAML by option": (["--icl-suite=broken.yaml"], "broken.yaml:2:*YAML: *"),
    "an empty suite": ([GOOD, "empty.yaml"], "empty.yaml:1:1: empty suite: *"),
    "an unknown probe in a folder": (
        [GOOD, "below"],
        "below/probe.yaml:5:18: unknown probe 'stup'; did you mean 'stub'?",
    ),
    "an unknown metric": ([GOOD, "metric.yaml"], "metric.yaml:9:*'exat'*did you mean 'exact'?"),
    "two suites of one name": (
        [GOOD, "mine.yaml", "again.yaml"],
        "two suites are named 'mine': *mine.yaml and *again.yaml; *",
    ),
    "a device that is not there": ([*RUN, "--icl-device=cuda:99"], "*'cuda:99' is not there*"),
    "a device": ([*RUN, "--icl-device=gpu"], "unknown device 'gpu'; use auto, split, cpu, *"),
    "a dtype": ([*RUN, "--icl-dtype=int8"], "unknown dtype 'int8'; use auto, *"),
    "a batch size": (
        [*RUN, "--icl-batch-size=many"],
        "--icl-batch-size=many: must be a whole number",
    ),
    "a batch size of nothing": ([*RUN, "--icl-batch-size=0"], "batch size 0: must be at least 1"),
    "a seed": ([*RUN, "--icl-seed=x"], "--icl-seed=x: must be a whole number"),
    "a negative seed": ([*RUN, "--icl-seed=-1"], "seed -1: must not be negative"),
    "what to do in doubt": (
        [*RUN, "--icl-inconclusive=pass"],
        "--icl-inconclusive=pass: use fail or warn",
    ),
    "a report folder that is a file": (
        [*RUN, "--icl-report-dir=taken"],
        "--icl-report-dir=taken: *taken is a file, not a folder",
    ),
    "a report folder below a file": (
        [*RUN, "--icl-report-dir=taken/below"],
        "--icl-report-dir=taken/below: *taken is a file, not a folder",
    ),
    "a model folder that is not there": (
        ["--icl-model=./nowhere"],
        "model './nowhere': there is no folder *nowhere*",
    ),
    "a GGUF file that is none": (
        ["--icl-model=model.gguf"],
        "model 'model.gguf': *model.gguf is not a GGUF file",
    ),
    "a GGUF file that is not there": (["--icl-model=modl.gguf"], "*did you mean 'model.gguf'?"),
    "a single weights file": (["--icl-model=one.safetensors"], "*one file of a checkpoint*"),
    "a module that is not there": (["--icl-model=stubb:good"], "*no module 'stubb'*"),
    "a folder that is not there": ([GOOD, "nowhere"], "file or directory not found: nowhere"),
    "a shipped suite as a path": (
        [GOOD, "core"],
        "file or directory not found: core; --icl-suite=core runs the shipped suite",
    ),
    "nearly a suite as a path": (
        [GOOD, "mne.yaml"],
        "file or directory not found: mne.yaml; did you mean 'mine.yaml'?",
    ),
    "a check that is not there": (
        [GOOD, "mine.yaml::hihg"],
        "mine.yaml: suite 'mine' has no check 'hihg'; did you mean 'high'?",
    ),
    "a check on a model that is not there": (
        [GOOD, "mine.yaml::high[stub-bad]"],
        "mine.yaml::high?stub-bad?: that model is not part of this run; *'stub-good'*",
    ),
    "a check on a model when there is none": (
        ["mine.yaml::high[stub-bad]"],
        "mine.yaml::high?stub-bad?: *give it with --icl-model=SPEC",
    ),
    "a baseline of a folder's tests without a model": (
        ["others", "--icl-baseline=none.json"],
        "--icl-baseline is for exactly one --icl-model; this run has 0",
    ),
    "a baseline to be saved of a folder's tests without a model": (
        ["others", "--icl-save-baseline=new.json"],
        "--icl-save-baseline is for exactly one --icl-model; this run has 0",
    ),
    "a limit without a baseline or a model": (
        ["others", "--icl-limit=level=1"],
        "--icl-limit needs --icl-baseline=FILE",
    ),
    "a file for GitLab without a model": (
        ["others", "--icl-code-quality=quality.json"],
        "--icl-code-quality needs a model: --icl-model=SPEC",
    ),
    "a file of metrics without a model": (
        ["others", "--icl-openmetrics=metrics.txt"],
        "--icl-openmetrics needs a model: --icl-model=SPEC",
    ),
    "a suite without a model": (["mine.yaml"], "no model is given for 'mine': --icl-model=SPEC *"),
    "a suite by option without a model": (
        ["others", "--icl-suite=gate"],
        "no model is given for 'mine', 'gate': --icl-model=SPEC *",
    ),
    "a shipped suite's check without a model": (
        ["suites/core.yaml::has-induction-heads"],
        "no model is given for 'core': --icl-model=SPEC *",
    ),
    "a report folder that is a URL": (
        [GOOD, "mine.yaml", "--icl-report-dir=s3://bucket/reports"],
        "--icl-report-dir=s3://bucket/reports: a URL; reports, baselines and the cache are local *",
    ),
    "a cache folder that is a URL": (
        [GOOD, "mine.yaml", "--icl-cache-dir=gs://bucket/cache"],
        "--icl-cache-dir=gs://bucket/cache: a URL; *",
    ),
    "a baseline that is a URL": (
        [GOOD, "mine.yaml", "--icl-baseline=https://host/good.json"],
        "--icl-baseline=https://host/good.json: a URL; *",
    ),
    "a baseline to be saved at a URL": (
        [GOOD, "mine.yaml", "--icl-save-baseline=s3://bucket/good.json"],
        "--icl-save-baseline=s3://bucket/good.json: a URL; *",
    ),
    "a file for GitLab at a URL": (
        [GOOD, "mine.yaml", "--icl-code-quality=file:///tmp/quality.json"],
        "--icl-code-quality=file:///tmp/quality.json: a URL; *",
    ),
    "an empty model spec": (["--icl-model="], "the model spec is empty; *"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_message_and_exit_code_4(stage: Stage, mistake: str) -> None:
    arguments, message = MISTAKES[mistake]
    for name, text in FILES.items():
        stage.write(name, text)
    result = stage.run(*arguments)
    check_refused(stage, result, message)


@pytest.mark.parametrize(
    "mistake",
    [
        "a built-in model that is not there",
        "an unknown probe in a folder",
        "a folder that is not there",
        "a baseline of a folder's tests without a model",
        "a suite without a model",
        "a suite by option without a model",
        "a report folder that is a URL",
        "a baseline to be saved at a URL",
    ],
)
def test_the_same_holds_under_xdist(stage: Stage, mistake: str) -> None:
    arguments, message = MISTAKES[mistake]
    for name, text in FILES.items():
        stage.write(name, text)
    check_refused(stage, stage.run(*arguments, "-n", "2"), message)


def check_refused(stage: Stage, result: pytest.RunResult, message: str) -> None:
    """Check that a run ended before it began, with one message."""
    assert result.ret == 4
    errors = [line for line in result.errlines if line]
    assert len(errors) == 1, errors
    result.stderr.fnmatch_lines([f"ERROR: {message}"])
    both = result.stdout.str() + result.stderr.str()
    assert "Traceback" not in both and "INTERNALERROR" not in both
    assert stage.log() == []
    assert not (stage.path / "reports").exists()


@pytest.mark.parametrize("more", [[], ["-n", "2"]], ids=["", "xdist"])
def test_a_broken_suite_beside_other_tests_is_a_collection_error(
    stage: Stage, more: list[str]
) -> None:
    # Without any ICL option the plugin does not search folders before pytest does.
    stage.write("below/broken.yaml", FILES["broken.yaml"])
    result = stage.run("below", *more)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["below/broken.yaml:2:*YAML: *"])
    assert "Traceback" not in result.stdout.str()


def test_a_mistake_under_a_model_in_addopts_is_found_too(stage: Stage) -> None:
    stage.pytester.makeini("[pytest]\naddopts = --icl-model=builtin:nothing")
    check_refused(stage, stage.run(), "model 'builtin:nothing': there is no such built-in model; *")
