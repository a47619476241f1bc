"""Probe `fewshot`: accuracy on small tasks with and without examples in the prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_validator

from icl_bench.errors import MeasurementError
from icl_bench.measures.bounds import SIGNED, UNIT
from icl_bench.probes.design.context import Context
from icl_bench.probes.design.settings import (
    HeadList,
    HeadSelection,
    StrictSettings,
    explain_few_draws,
)
from icl_bench.probes.prompts.examples import MOST_SHOTS, TaskNames, Template
from icl_bench.probes.prompts.scoring import Score
from icl_bench.probes.protocol import MetricInfo, Probe
from icl_bench.probes.texts.fewshot_effects import (
    HEAD_METRICS,
    NULL_METRICS,
    P_VALUES,
    UNIFORM_METRICS,
    What,
    gains,
    over_tasks,
    report_effects,
    report_within_tasks,
)
from icl_bench.probes.texts.report import report_fewshot
from icl_bench.records.parts import Measurement, Metric
from icl_bench.tasks import task_names

if TYPE_CHECKING:
    from icl_bench.models.model import Model
    from icl_bench.probes.texts.fewshot_runs import Answers, LaidOut

Head = tuple[int, int]


class Settings(StrictSettings):
    """What a suite may set for the `fewshot` probe."""

    tasks: TaskNames = Field(default_factory=task_names)
    """Names of the tasks; all when not given."""
    shots: Annotated[list[Annotated[int, Field(ge=0, le=MOST_SHOTS)]], Field(min_length=2)] = Field(
        default_factory=lambda: [0, 1, 2, 5, 10]
    )
    """Numbers of examples before a query; 0 is among them."""
    queries: Annotated[int, Field(ge=1)] = 8
    """Queries of each task; all of its items where it has fewer."""
    choices: Annotated[int, Field(ge=2)] = 4
    """Choices of a query: the right output, and outputs of other items of the task."""
    score: Score = "sum"
    """Log-likelihood of a choice: summed over its tokens, per token, or the sum minus the
    log-likelihood without a prompt."""
    template: Template = "Q: {input}\nA: {output}"
    """Format of an example."""
    separator: Annotated[str, Field(min_length=1)] = "\n\n"
    """Separator between examples."""
    heads: HeadSelection | HeadList | None = None
    """Heads to ablate; none when not given."""
    method: Literal["zero", "mean"] = "mean"
    """What replaces their outputs: nothing, or their mean over other prompts of the tasks."""
    null_draws: Annotated[int, Field(ge=0)] = 20
    """Layer-matched random sets to compare with; 0 for none."""
    null_queries: Annotated[int, Field(ge=1)] = 2
    """Queries of each task that random sets are measured on (at most `queries`)."""
    uniform_draws: Annotated[int, Field(ge=0)] = 0
    """Random sets from any layer, reported and never used in a verdict."""
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Level that the null must be able to reach for its p-value to count."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of all draws."""

    @field_validator("shots")
    @classmethod
    def _shots_fit(cls, shots: list[int]) -> list[int]:
        if len(set(shots)) != len(shots):
            raise ValueError("a number of shots is named twice")
        if 0 not in shots:
            raise ValueError("0 is not among the shots: there is nothing to gain from")
        return sorted(shots)

    @property
    def independent_samples(self) -> tuple[str, int] | None:
        """Tasks; with a single one, its queries."""
        if len(self.tasks) > 1:
            return "tasks", len(self.tasks)
        return ("queries", self.queries) if self.queries > 1 else None

    @property
    def absent(self) -> dict[str, str]:
        """Accuracies at other shots; what is read with heads off, and beside random ones."""
        others = set(range(MOST_SHOTS + 1)) - set(self.shots)
        absent = {f"accuracy_{shots}": "not among the suite's shots" for shots in sorted(others)}
        if self.heads is None:
            return absent | dict.fromkeys(HEAD_METRICS, "no heads in the suite")
        if self.null_draws == 0:
            absent |= dict.fromkeys(NULL_METRICS, "null_draws: 0 in the suite")
        if self.uniform_draws == 0:
            absent |= dict.fromkeys(UNIFORM_METRICS, "uniform_draws: 0 in the suite")
        return absent | explain_few_draws(P_VALUES, self.null_draws, self.alpha)


METRICS: dict[str, MetricInfo] = {
    **{
        f"accuracy_{shots}": MetricInfo(
            f"mean over tasks of the share of right choices, {shots} shots",
            "up",
            "ratio",
            bounds=UNIT,
        )
        for shots in range(MOST_SHOTS + 1)
    },
    "chance": MetricInfo("accuracy of guessing", None, "ratio", True),
    "fewshot_gain": MetricInfo(
        "accuracy at the most shots minus at 0", "up", "ratio", bounds=SIGNED
    ),
    "first_token_accuracy": MetricInfo(
        "share of queries, at the most shots, whose first token ranks first of all",
        "up",
        "ratio",
        bounds=UNIT,
    ),
    "first_token_gain": MetricInfo("the same minus at 0 shots", "up", "ratio", bounds=SIGNED),
    "fewshot_gain_these_tasks": MetricInfo(
        "fewshot_gain, its interval for other queries of these tasks only", "up", "ratio"
    ),
    "first_token_gain_these_tasks": MetricInfo(
        "first_token_gain, its interval for other queries of these tasks only", "up", "ratio"
    ),
    **HEAD_METRICS,
}

JUDGED: dict[str, What] = {"fewshot_gain": "right", "first_token_gain": "first"}
"""Metric of a gain -> how answers are judged."""


def measure(model: Model, settings: Settings, context: Context) -> Measurement:
    """Answer queries of every task after 0 to 10 examples, with heads on and off.

    Args:
        model: the model.
        settings: tasks, shots and scoring.
        context: the measurement that heads are chosen from, and progress.

    Raises:
        NotMeasurable: there is no tokenizer, it does not know a word, or there are no heads.
        MeasurementError: a prompt does not fit the model.
    """
    from icl_bench.measures.tokens import digest_tokens
    from icl_bench.probes.design.head_selection import choose_heads
    from icl_bench.probes.texts.fewshot_runs import (
        average_outputs,
        draw_sets,
        lay_out_task,
        run_task,
    )

    laid = [lay_out_task(model, settings, name) for name in settings.tasks]
    for task in laid:
        _require_context(model, task.longest)
    heads: list[Head] = []
    if settings.heads is not None:
        model.require_heads()
        heads = choose_heads(model, settings, context.upstream)
    sets = draw_sets(model, settings, heads)
    compared = [head for some in (*sets.matched, *sets.uniform) for head in some]
    replacement, heldout = average_outputs(model, settings, [*heads, *compared])
    total = sum(task.rows(sets) for task in laid)
    with context.task("few-shot prompts", total) as advance:
        found = [run_task(model, settings, task, sets, replacement, advance) for task in laid]

    ids = [sheet.input_ids for task in laid for sheet in task.sheets.values()]
    result = Measurement(
        probe="fewshot",
        settings=settings.model_dump(by_alias=True, exclude_none=True),
        tokens_sha256=digest_tokens(*ids, *heldout),
        tables={"tasks": [], "curve": []},
    )
    _summarize(result, settings, laid, found)
    if settings.heads is not None:
        report_effects(result, settings, sets, found)
    return result


def _summarize(
    result: Measurement, settings: Settings, laid: list[LaidOut], found: list[Answers]
) -> None:
    """Report accuracy by number of examples, over tasks and for each."""
    from icl_bench.measures.statistics import exact_metric

    most, clean = settings.shots[-1], [one.clean for one in found]
    for shots in settings.shots:
        accuracy = over_tasks([run[shots].right for run in clean], UNIT)
        first = over_tasks([run[shots].first for run in clean], UNIT)
        result.metrics[f"accuracy_{shots}"] = accuracy
        row: dict[str, Any] = {"shots": shots, **_cells("accuracy", accuracy)}
        result.tables["curve"].append(row | _cells("first_token_accuracy", first))
    result.unmeasured = settings.absent
    guesses = [sum(task.chances) / len(task.chances) for task in laid]
    result.metrics |= {
        "chance": exact_metric(sum(guesses) / len(guesses)),
        "first_token_accuracy": over_tasks([run[most].first for run in clean], UNIT),
    }
    for name, what in JUDGED.items():
        result.metrics[name] = over_tasks(gains(clean, most, what), SIGNED)
        report_within_tasks(result, name, gains(clean, most, what), SIGNED)
    for name, one, chance in zip(settings.tasks, found, guesses):
        row = {"task": name, "queries": len(one.clean[0].right), "chance": chance}
        row |= {f"accuracy_{n}": float(run.right.mean()) for n, run in one.clean.items()}
        row["first_token_accuracy"] = float(one.clean[most].first.mean())
        row |= _cells("fewshot_gain", over_tasks(gains([one.clean], most, "right"), SIGNED))
        if one.chosen:
            row |= _cells("gain_ablated", over_tasks(gains([one.chosen], most, "right"), SIGNED))
        result.tables["tasks"].append(row)


def _cells(name: str, metric: Metric) -> dict[str, Any]:
    return {name: metric.value, f"{name}_stderr": metric.stderr}


def _require_context(model: Model, length: int) -> None:
    if model.context is not None and length > model.context:
        raise MeasurementError(
            f"a prompt of {length} tokens does not fit into the model's context of "
            f"{model.context}; lower the shots"
        )


PROBE = Probe("fewshot", Settings, METRICS, measure, report=report_fewshot)
