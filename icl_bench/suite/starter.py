"""A first suite of one's own: a file with a word on each part of it."""

from __future__ import annotations

import re
from pathlib import Path

from icl_bench.errors import SettingsError
from icl_bench.suite.catalog import STARTER
from icl_bench.suite.problems import show_path
from icl_bench.suite.schema import SUITE_NAME

TEXT = """\
icl_suite: 1              # version of the format; always the first key
name: {name}
version: 1                # raise it when what the suite asks changes
description: A first suite of my own.

# To change a few things in a shipped suite instead, take it over and say what differs:
# extends: core           # or a file: ./base.yaml   (icl-bench show core prints it)
# remove: [harry-potter]  # ids of checks and quiz items, names of measurements

# Settings for every measurement whose probe has them.
defaults: {{sequences: 32, period: 50}}

# What to measure: a name of your own, a probe, its settings (icl-bench list probes).
measure:
  repeats: {{probe: induction}}
  copying: {{probe: losses}}
  # The heads that score above .4 are replaced by their mean, on sequences of their own.
  collapse:
    probe: ablation
    heads: {{from: repeats, where: {{induction: {{above: 0.4}}}}}}
    method: mean

# What must hold: a measurement, one of its metrics (icl-bench list metrics), and one rule out of
# above, below, at_least, at_most, between: [low, high], equals (with tolerance).
checks:
  - id: has-induction-heads
    description: Some head attends to what followed the last time.
    on: repeats
    metric: induction_max
    above: 0.4
  - id: copies-from-context
    description: Random tokens are predicted far better the second time (in nats).
    on: copying
    metric: gain
    above: 1
  - id: copying-is-lost
    description: Without these heads at least a quarter of that is gone.
    on: collapse
    metric: copying_lost
    above: 0.25

# Questions. The model answers the first: the likeliest choice has to be the answer. Begin choices
# with a space, as the next word of the prompt. A measurement answers the second.
quiz:
  - id: a-name-comes-back
    prompt: "Harry Potter went to the school. The friend said: Harry"
    choices: [" Potter", " school", " friend"]
    answer: " Potter"
  - id: how-many-heads
    question: How many of the heads score above .4?
    options: {{none: None of them, some: "Some, not most", most: Most of them}}
    on: repeats
    metric: induction_share
    supports:
      - {{option: none, below: 0.001}}
      - {{option: some, between: [0.001, 0.5]}}
      - {{option: most, above: 0.5}}
    expected: some
"""


def write_starter(path: Path) -> str:
    """Write a commented suite that can be run as it is; return its name.

    Args:
        path: a file that is not there.

    Raises:
        SettingsError: something is there already, or it cannot be written.
    """
    name = re.sub(r"[^a-z0-9_-]+", "-", path.stem.lower()).strip("-")
    name = name if re.match(SUITE_NAME, name) and name != Path(STARTER).stem else "mine"
    try:
        with path.open("x", encoding="utf-8") as stream:
            stream.write(TEXT.format(name=name))
    except FileExistsError:
        raise SettingsError(f"{show_path(path)}: is there already; give another FILE") from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise SettingsError(f"{show_path(path)}: cannot be written ({why})") from None
    return name
