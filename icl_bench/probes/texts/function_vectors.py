"""Probe `function_vectors`: heads whose output after examples carries the task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field

from icl_bench.measures.bounds import SIGNED, UNIT
from icl_bench.probes.design.context import Context
from icl_bench.probes.design.settings import StrictSettings
from icl_bench.probes.prompts.encoding import encode, encode_choices, pad
from icl_bench.probes.prompts.examples import (
    MOST_SHOTS,
    Query,
    TaskNames,
    Template,
    draw_queries,
    shuffle_outputs,
    write_prompt,
)
from icl_bench.probes.prompts.scoring import Sheet, lay_out
from icl_bench.probes.protocol import MetricInfo, Probe
from icl_bench.records.parts import Measurement
from icl_bench.tasks import load_task, task_names

if TYPE_CHECKING:
    from torch import Tensor

    from icl_bench.models.model import Model


class Settings(StrictSettings):
    """What a suite may set for the `function_vectors` probe."""

    tasks: TaskNames = Field(default_factory=task_names)
    """Names of the tasks; all when not given."""
    shots: Annotated[int, Field(ge=2, le=MOST_SHOTS)] = 10
    """Examples in a prompt."""
    prompts: Annotated[int, Field(ge=1)] = 2
    """Prompts with shuffled labels of each task; no more than its items."""
    clean_prompts: Annotated[int, Field(ge=1)] = 8
    """Prompts of each task that mean outputs are taken over; no more than its items."""
    template: Template = "Q: {input}\nA: {output}"
    """Format of an example."""
    separator: Annotated[str, Field(min_length=1)] = "\n\n"
    """Separator between examples."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of all draws."""

    @property
    def independent_samples(self) -> tuple[str, int] | None:
        """Tasks; with a single one, its prompts."""
        if len(self.tasks) > 1:
            return "tasks", len(self.tasks)
        return ("prompts", self.prompts) if self.prompts > 1 else None


METRICS: dict[str, MetricInfo] = {
    "function_vector_max": MetricInfo(
        "largest causal indirect effect of one head, chosen and read on different tasks",
        "up",
        "probability",
        bounds=SIGNED,
    ),
    "function_vector_median": MetricInfo(
        "median effect over heads", None, "probability", bounds=SIGNED
    ),
    "clean_probability": MetricInfo(
        "probability of the right answer's first token, right labels",
        "up",
        "probability",
        bounds=UNIT,
    ),
    "shuffled_probability": MetricInfo(
        "the same, shuffled labels", None, "probability", bounds=UNIT
    ),
}


@dataclass
class Effects:
    """What one task's prompts gave.

    Args:
        effects: P(patched) - P(shuffled), shape (prompts, heads of all layers in order).
        clean: P of the right answer with right labels, (prompts,).
        shuffled: the same with shuffled labels, (prompts,).
        ids: token ids that were run.
    """

    effects: np.ndarray
    clean: np.ndarray
    shuffled: np.ndarray
    ids: list[Tensor]


def measure(model: Model, settings: Settings, context: Context) -> Measurement:
    """Put each head's mean output on right examples into prompts with shuffled labels.

    The causal indirect effect of a head is P(y | shuffled prompt, the head's output at the last
    token replaced by its mean over prompts of the task with right labels) - P(y | shuffled
    prompt), mean over prompts, then over tasks (Todd et al. 2024).

    Args:
        model: the model.
        settings: tasks and prompts.
        context: progress.

    Raises:
        NotMeasurable: there are no heads or no tokenizer, or it does not know a word.
        MeasurementError: a prompt does not fit the model.
    """
    from icl_bench.measures import statistics as st
    from icl_bench.measures.tokens import digest_tokens

    model.require_heads()
    rows = len(model.every_head) * settings.prompts * len(settings.tasks)
    with context.task("every head's mean output in shuffled prompts", rows) as advance:
        found = [patch_heads(model, settings, name, advance) for name in settings.tasks]
    # Of several tasks each is one sample; of one task, its prompts are.
    several = len(found) > 1

    def gather(parts: list[np.ndarray]) -> np.ndarray:
        return np.stack([part.mean(0) for part in parts]) if several else parts[0]

    effects = gather([one.effects for one in found])
    heads: list[dict[str, Any]] = []
    for column, (layer, head) in enumerate(model.every_head):
        metric = st.mean_metric(effects[:, column], keep=False)
        row: dict[str, Any] = {"layer": layer, "head": head, "function_vector": metric.value}
        if metric.stderr is not None:
            row["function_vector_stderr"] = metric.stderr
        heads.append(row)
    clean, shuffled = (gather([getattr(one, k) for one in found]) for k in ("clean", "shuffled"))
    return Measurement(
        probe="function_vectors",
        settings=settings.model_dump(),
        tokens_sha256=digest_tokens(*(ids for one in found for ids in one.ids)),
        metrics={
            "function_vector_max": st.best_metric(effects, bounds=SIGNED),
            "function_vector_median": st.mean_metric(np.median(effects, axis=1), bounds=SIGNED),
            "clean_probability": st.mean_metric(clean, unit=True),
            "shuffled_probability": st.mean_metric(shuffled, unit=True),
        },
        heads=heads,
        tables={"tasks": [_describe(model, name, one) for name, one in zip(settings.tasks, found)]},
    )


def _describe(model: Model, name: str, found: Effects) -> dict[str, Any]:
    means = found.effects.mean(0)
    layer, head = model.every_head[int(means.argmax())]
    return {
        "task": name,
        "prompts": len(found.effects),
        "clean_probability": float(found.clean.mean()),
        "shuffled_probability": float(found.shuffled.mean()),
        "largest": f"{layer}.{head}",
        "largest_effect": float(means.max()),
    }


def patch_heads(
    model: Model, settings: Settings, name: str, advance: Callable[[int], None]
) -> Effects:
    """Measure the effect of every head on the prompts of one task."""
    import torch

    from icl_bench.models.attention.ablation import Replacement
    from icl_bench.models.circuits.interventions import switch_off
    from icl_bench.models.clean_run import run_base

    task = load_task(name)
    queries = draw_queries(task, settings.prompts, 2, settings.seed, "vectors_shuffled")
    shuffled = lay_out(
        [
            _encode(
                model,
                settings,
                shuffle_outputs(query, settings.shots, settings.seed, "vectors_shuffled", i),
            )
            for i, query in enumerate(queries)
        ],
        model.vocabulary[0],
    )
    clean = lay_out([_encode(model, settings, query) for query in queries], model.vocabulary[0])
    values, ids = average_last_outputs(model, settings, name)
    model.require_context(max(part.shape[1] for part in (shuffled.input_ids, clean.input_ids)))
    right = run_base(model, clean.input_ids, clean.targets, answers=clean.answers)
    base = run_base(
        model,
        shuffled.input_ids,
        shuffled.targets,
        range(model.layers),
        answers=shuffled.answers,
    )
    last = [int(shuffled.targets[start]) - 1 for [(_, start, _)] in shuffled.places]
    replacement = Replacement(values, at=torch.tensor(last))
    every = [[head] for head in model.every_head]
    off = switch_off(model, base, every, replacement, advance=advance)
    before = _probabilities(shuffled, base.losses.nll)
    after = np.stack([_probabilities(shuffled, nll) for nll in off.nll], axis=1)
    return Effects(
        after - before[:, None],
        _probabilities(clean, right.losses.nll),
        before,
        [clean.input_ids, shuffled.input_ids, ids],
    )


def average_last_outputs(
    model: Model, settings: Settings, name: str
) -> tuple[dict[int, Tensor], Tensor]:
    """Mean output of every head at the last token of prompts of a task with right labels.

    Returns:
        layer -> (heads, width), and the ids of the prompts.
    """
    import torch

    queries = draw_queries(
        load_task(name), settings.clean_prompts, 2, settings.seed, "vectors_clean"
    )
    texts = [
        write_prompt(query, settings.shots, settings.template, settings.separator)[0]
        for query in queries
    ]
    prompts = [encode(model, text) for text in texts]
    ids = pad(prompts, model.vocabulary[0])
    model.require_context(ids.shape[1])
    rows, last = torch.arange(len(prompts)), torch.tensor([len(prompt) - 1 for prompt in prompts])
    outputs = model.head_outputs(ids, model.heads)
    means = {
        layer: kept[rows.to(kept.device), last.to(kept.device)].double().mean(0).float().cpu()
        for layer, kept in outputs.items()
    }
    return means, ids


def _encode(model: Model, settings: Settings, query: Query) -> tuple[list[list[int]], int]:
    """Tokenize a prompt and the first token of its right answer."""
    prompt, choices = write_prompt(query, settings.shots, settings.template, settings.separator)
    [ids], shared = encode_choices(model, prompt, choices[:1])
    return [ids[: shared + 1]], shared


def _probabilities(sheet: Sheet, nll: Tensor) -> np.ndarray:
    """Probability of each prompt's answer, (prompts,)."""
    return np.array([float(parts[0].sum().exp()) for parts in sheet.log_likelihoods(nll)])


PROBE = Probe("function_vectors", Settings, METRICS, measure)
