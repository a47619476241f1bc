"""Few-shot prompts: which examples precede which query, and how they are written."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

from pydantic import AfterValidator, Field

from icl_bench.errors import nearest
from icl_bench.tasks import Task, task_names

MOST_SHOTS = 10
"""Examples that belong to a query; a prompt with fewer shots has the last of them."""
TASKS_APART = 1_000_000
"""Draws of two tasks never share an index."""


def _check_template(text: str) -> str:
    before, found, after = text.partition("{output}")
    if not found or after or before.count("{input}") != 1 or before.endswith("{input}"):
        raise ValueError("a template has {input} once, then something, and ends with {output}")
    return text


def _check_tasks(names: list[str]) -> list[str]:
    for name in names:
        if name not in task_names():
            raise ValueError(f"unknown task {name!r}; {nearest(name, task_names())}")
    if len(set(names)) != len(names):
        raise ValueError("a task is named twice")
    return names


Template = Annotated[str, AfterValidator(_check_template)]
"""How one example is written."""
TaskNames = Annotated[list[str], Field(min_length=1), AfterValidator(_check_tasks)]
"""Names of few-shot tasks, none twice."""


@dataclass(frozen=True)
class Query:
    """One item of a task to be answered, and what may stand before it.

    Args:
        task: name of its task.
        given: its input.
        wanted: its output.
        examples: (input, output) of `MOST_SHOTS` other items.
        distractors: outputs of other items, none the right one.
    """

    task: str
    given: str
    wanted: str
    examples: tuple[tuple[str, str], ...]
    distractors: tuple[str, ...]

    @property
    def choices(self) -> list[str]:
        """The right output first, then the distractors."""
        return [self.wanted, *self.distractors]


def draw_queries(task: Task, count: int, choices: int, seed: int, stream: str) -> list[Query]:
    """Draw queries, their examples and distractors.

    Asking for more queries leaves the first ones as they were, and no task depends on another.

    Args:
        task: the task.
        count: queries wanted; all items where there are fewer.
        choices: choices of a query, the right one included; fewer where the task has fewer
            different outputs.
        seed: seed of the draws.
        stream: the stream of draws.
    """
    from icl_bench.measures.draws import Draws

    first = zlib.crc32(task.name.encode()) * TASKS_APART
    order = Draws(seed, stream, first).sample(len(task.items), min(count, len(task.items)))
    queries = []
    for number, place in enumerate(order):
        draws = Draws(seed, stream, first + 1 + number)
        given, wanted = task.items[place]
        others = [item for index, item in enumerate(task.items) if index != place]
        examples = draws.choose(others, MOST_SHOTS)
        wrong = [output for output in task.outputs if output != wanted]
        distractors = draws.choose(wrong, min(choices - 1, len(wrong)))
        queries.append(Query(task.name, given, wanted, tuple(examples), tuple(distractors)))
    return queries


def shuffle_outputs(query: Query, shots: int, seed: int, stream: str, index: int) -> Query:
    """Return the query with the outputs of the examples shown moved around so that none stays.

    Where outputs repeat, an example may still get the output that it had.

    Args:
        query: the query.
        shots: examples that the prompt has, the last ones of the query's; at least 2.
        seed: seed of the draws.
        stream: the stream of draws.
        index: number of the query.
    """
    from icl_bench.measures.draws import Draws

    first = zlib.crc32(query.task.encode()) * TASKS_APART
    order = Draws(seed, stream, first + TASKS_APART // 2 + index).derangement(shots)
    hidden, shown = query.examples[:-shots], query.examples[-shots:]
    moved = tuple((given, shown[other][1]) for (given, _), other in zip(shown, order))
    return replace(query, examples=hidden + moved)


def write_prompt(query: Query, shots: int, template: str, separator: str) -> tuple[str, list[str]]:
    """Write the prompt, and the choices that continue it.

    The white space before {output} belongs to the choices, as tokenizers want it.

    Args:
        query: the query.
        shots: examples before it, the last ones of the query's.
        template: how an example is written.
        separator: what stands between two.

    Returns:
        the prompt, and the choices with the right one first.
    """
    before = template.removesuffix("{output}")
    stem = before.rstrip()
    space = before[len(stem) :]
    examples: Sequence[tuple[str, str]] = query.examples[len(query.examples) - shots :]
    parts = [before.replace("{input}", given) + output for given, output in examples]
    prompt = separator.join([*parts, stem.replace("{input}", query.given)])
    return prompt, [space + choice for choice in query.choices]
