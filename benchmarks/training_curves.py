"""How the reference models come by the circuit: scores and losses of every checkpoint, by seed.

    for seed in 0 1 2; do icl-bench train-reference build/seed$seed --seed $seed --save-series; done
    python benchmarks/training_curves.py measure build/seed* > docs/training-curves.json
    python benchmarks/training_curves.py table docs/training-curves.json
    python benchmarks/training_curves.py rounding build/seed0

`measure` reads the checkpoints of every training, `table` prints what it wrote as Markdown, and
`rounding` prints how far the shipped checkpoints, kept in 8 bits, are from those in float32.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

from rounds import row, table

import icl_bench
from icl_bench.probes.design.context import Context
from icl_bench.probes.heads import induction
from icl_bench.reference import load, series_steps

MODELS = ("induction-2l", "control-1l")
MEASURES = ("induction_max", "previous_token_max", "first_loss", "repeated_loss")
SEQUENCES, PERIOD = 32, 50
PRESENT = 0.1
"""Final score below which nothing has formed whose half could be passed."""

Curve = dict[str, list[Any]]


def score(model: icl_bench.Model) -> dict[str, float]:
    """Return `MEASURES` of one model, on the same sequences for every model.

    Args:
        model: the model.
    """
    tokens = icl_bench.repeated_tokens(model, sequences=SEQUENCES, period=PERIOD)
    # Column t - 1 has the loss of physical position t; <bos> is position 0.
    losses = icl_bench.token_losses(model, tokens.input_ids)
    settings = induction.Settings(sequences=SEQUENCES, period=PERIOD, control=False)
    metrics = induction.measure(model, settings, Context()).metrics
    return {
        "induction_max": metrics["induction_max"].value,
        "previous_token_max": metrics["previous_token_max"].value,
        "first_loss": float(losses[:, 1:PERIOD].mean()),
        "repeated_loss": float(losses[:, PERIOD + 1 :].mean()),
    }


def checkpoints(folder: Path) -> dict[int, Path]:
    """Return step -> folder, ascending, of a training's `step-N` folders."""
    steps = {int(path.name.removeprefix("step-")): path for path in folder.glob("step-*")}
    return dict(sorted(steps.items()))


def follow(folder: Path) -> Curve:
    """Return steps, `MEASURES` and training losses of one model's checkpoints."""
    found = checkpoints(folder)
    history = json.loads((list(found.values())[-1] / "trainer_state.json").read_text())
    losses = {entry["step"]: entry["loss"] for entry in history["log_history"]}
    rows = []
    for path in found.values():
        rows.append(score(icl_bench.load_model(str(path))))
        print(path, rows[-1], file=sys.stderr, flush=True)
    curve: Curve = {"steps": list(found)}
    curve |= {name: [round(values[name], 4) for values in rows] for name in MEASURES}
    curve["training_loss"] = [losses[step] for step in found]
    return curve


def half_way(curve: Curve, name: str) -> float | None:
    """Return the step at which a score passes half of its last value for the first time.

    Between two checkpoints the score is taken to be linear in the logarithm of the step.

    Args:
        curve: as of `follow`.
        name: one of its scores.
    """
    steps, values = curve["steps"], curve[name]
    half = values[-1] / 2
    if values[-1] < PRESENT:
        return None
    for index in range(1, len(steps)):
        before, after = values[index - 1], values[index]
        if before < half <= after:
            share = (half - before) / (after - before)
            logs = math.log(steps[index - 1]), math.log(steps[index])
            return math.exp(logs[0] + share * (logs[1] - logs[0]))
    return None


def show(curves: dict[str, dict[str, Curve]]) -> None:
    """Print one table of all curves, and one of the steps at which scores are half-way."""
    header = ["step"]
    columns = [(model, seed) for model in curves for seed in curves[model]]
    for name in MEASURES:
        print(f"\n`{name}`\n")
        print(table([*header, *(f"{model}, seed {seed}" for model, seed in columns)], []))
        for index, step in enumerate(curves[columns[0][0]][columns[0][1]]["steps"]):
            values = (curves[model][seed][name][index] for model, seed in columns)
            print(row(str(step), *(f"{value:.3f}" for value in values)))
    print()
    print(table(["model", "seed", "induction half-way", "previous token half-way"], []))
    for model, seed in columns:
        halves = (half_way(curves[model][seed], name) for name in MEASURES[:2])
        print(row(model, seed, *("none" if half is None else f"{half:.0f}" for half in halves)))


def compare(folder: Path) -> None:
    """Print the largest differences between the shipped checkpoints and a training's folders."""
    print(table(["model", "measure", "largest difference", "at step"], []))
    for name in MODELS:
        found = checkpoints(folder / name)
        apart: dict[str, list[tuple[float, int]]] = {measure: [] for measure in MEASURES}
        for step in sorted(found.keys() & set(series_steps(name))):
            exact = score(icl_bench.load_model(str(found[step])))
            kept = score(icl_bench.wrap(*load(name, step)))
            for measure in MEASURES:
                apart[measure].append((abs(kept[measure] - exact[measure]), step))
        for measure, differences in apart.items():
            largest, step = max(differences)
            print(row(name, f"`{measure}`", f"{largest:.5f}", str(step)))


def main() -> None:
    """Measure, or print what was measured."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("measure").add_argument("folders", metavar="DIR", nargs="+", type=Path)
    commands.add_parser("table").add_argument("file", metavar="FILE", type=Path)
    commands.add_parser("rounding").add_argument("folder", metavar="DIR", type=Path)
    given = parser.parse_args()
    if given.command == "table":
        show(json.loads(given.file.read_text()))
    elif given.command == "rounding":
        compare(given.folder)
    else:
        seeds = {folder.name.removeprefix("seed"): folder for folder in given.folders}
        curves = {
            name: {seed: follow(folder / name) for seed, folder in seeds.items()} for name in MODELS
        }
        print(json.dumps(curves))


if __name__ == "__main__":
    main()
