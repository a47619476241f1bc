"""Restores single places of model B: B's own residual stream goes in, A's parameters are used.

What enters a place in B does not depend on the place itself, so that one clean run of B has the
inputs of all of them. A is given these inputs, each layer its own, and what its layers, heads and
MLPs make of them is kept. B then runs on from there with one of these outputs in the place of its
own. This is exact: the same as copying A's parameters of that place into B. A head's output is put
in after the output projection, each model's own, so that a change of either is restored with it.
At most one of the models is in memory at a time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from icl_bench.diffing.places import Place
from icl_bench.diffing.taps import Hook, Keeper, Kept, Projection, Taps, mlp_of
from icl_bench.errors import ModelError, NotMeasurable
from icl_bench.models.attention.forward_hooks import ForwardHooks
from icl_bench.models.attention.prefix import Capture, Stream, resume
from icl_bench.models.clean_run import check_resumes
from icl_bench.models.module.batching import run_in_batches
from icl_bench.models.module.losses import TokenLosses, join_losses, score_targets

if TYPE_CHECKING:
    from icl_bench.models.model import Model

ENTERED, LEFT, WRITTEN, READ, MLP = "entered", "left", "written", "read", "mlp"
"""What is kept of a layer: its input, its output, what its attention writes, the input of its
output projection, and what its MLP writes."""


@dataclass(frozen=True)
class Texts:
    """Sequences, and the tokens of them whose losses are read.

    Args:
        input_ids: (rows, length).
        targets: physical positions, each >= 1.
    """

    input_ids: Tensor
    targets: Tensor


@dataclass
class Inputs:
    """What enters every place of B on its clean run.

    Args:
        texts: the sequences.
        losses: of their targets, nats, (rows, targets).
        kept: `ENTERED` and `WRITTEN` of every layer, and `LEFT` of the last one.
        wrapped: layer -> whether the layer before returns a tuple around the residual stream.
    """

    texts: Texts
    losses: Tensor
    kept: Kept
    wrapped: dict[int, bool]


@dataclass
class Answers:
    """What A makes of B's inputs, place by place.

    Args:
        losses: of A itself on the same targets.
        kept: `LEFT`, `WRITTEN`, `READ` and `MLP` of every layer that has it, and A's embedded
            tokens as `ENTERED` of layer 0.
        matrices: layer -> output projection, (residual width, heads * head width).
        unembedded: losses of B's last residual stream, read by A's final norm and unembedding.
        problems: (kind, layer) -> why such a place of the layer cannot be restored.
    """

    losses: Tensor
    kept: Kept = field(default_factory=dict)
    matrices: dict[int, Tensor] = field(default_factory=dict)
    unembedded: Tensor | None = None
    problems: dict[tuple[str, int], str] = field(default_factory=dict)


def _join(parts: list[Kept]) -> Kept:
    return {key: torch.cat([part[key] for part in parts]) for key in parts[0]} if parts else {}


@torch.no_grad()
def keep_inputs(model: Model, texts: Texts) -> Inputs:
    """Run B and keep what enters each of its places.

    Args:
        model: B.
        texts: the sequences.

    Raises:
        NotMeasurable: its layers cannot be told apart.
    """
    last, parts, losses = model.layers - 1, list[Kept](), list[TokenLosses]()
    wrapped: dict[int, bool] = {}
    ids, targets = texts.input_ids, texts.targets

    def work(start: int, stop: int) -> None:
        keeper = Keeper(stop - start)
        leaving = keeper.taking(LEFT)
        taps = Taps(
            enter=keeper.taking(ENTERED),
            write=keeper.taking(WRITTEN),
            leave=lambda layer, values: leaving(layer, values) if layer == last else None,
        )
        capture = Capture(range(model.layers), stop=False)
        with taps.on(model), capture.watching(model.runner):
            logits = model.run_pass(ids[start:stop], ForwardHooks(), targets - 1)
        scored = score_targets(logits, ids[start:stop][:, targets])
        wrapped.update({layer: stream.wrapped for layer, stream in capture.streams.items()})
        parts.append(keeper.kept)
        losses.append(scored)

    run_in_batches(ids.shape, model.limit, work, targets=len(targets))
    return Inputs(texts, join_losses(losses).nll, _join(parts), wrapped)


@torch.no_grad()
def answer(model: Model, inputs: Inputs) -> Answers:
    """Give A the inputs that its places would have in B, and keep what it makes of them.

    Args:
        model: A, of the same shapes as B.
        inputs: B's.

    Raises:
        NotMeasurable: its layers cannot be told apart, or need more than the residual stream.
    """
    texts = inputs.texts
    _require_resuming(model)
    own = model.losses(texts.input_ids, texts.targets).nll
    answers = Answers(own, matrices=_matrices(model))
    layers = model.anatomy.layers
    for index, layer in enumerate(layers):
        if layer.problem or not layer.heads:
            why = layer.problem or "it has no attention heads"
            answers.problems |= {(kind, index): why for kind in ("attention", "head")}
        if mlp_of(layer) is None:
            why = layer.mlp_problem or ("it has several MLPs" if layer.mlps else "it has no MLP")
            answers.problems["mlp", index] = why
    first, second, unembedded = list[Kept](), list[Kept](), list[TokenLosses]()

    def work(start: int, stop: int) -> None:
        ids, rows = texts.input_ids[start:stop], slice(start, stop)
        keeper = Keeper(stop - start)
        reading = keeper.taking(READ)
        taps = Taps(
            enter=_entering(model, inputs, rows, keeper),
            leave=_leaving(model, inputs, rows, keeper),
            project=lambda layer, given, _: reading(layer, given),
            write=keeper.taking(WRITTEN),
        )
        with taps.on(model):
            logits = model.run_pass(ids, ForwardHooks(), texts.targets - 1)
        scored = score_targets(logits, ids[:, texts.targets])
        mlps = Keeper(stop - start)
        taps = Taps(
            enter=_entering(model, inputs, rows, None),
            # The MLP then sees what it sees in B: the stream after B's attention.
            write=lambda layer, values: inputs.kept[WRITTEN, layer][rows].to(values),
            mlp=mlps.taking(MLP),
        )
        with taps.on(model):
            model.run_pass(ids, ForwardHooks(), texts.targets[-1:] - 1, logits=False)
        first.append(keeper.kept)
        second.append(mlps.kept)
        unembedded.append(scored)

    run_in_batches(texts.input_ids.shape, model.limit, work, targets=len(texts.targets))
    answers.kept = _join(first) | _join(second)
    answers.unembedded = join_losses(unembedded).nll
    return answers


def _matrices(model: Model) -> dict[int, Tensor]:
    return {
        index: layer.output_matrix().detach().to("cpu", copy=True)
        for index, layer in enumerate(model.anatomy.layers)
        if layer.heads and not layer.problem
    }


def _entering(model: Model, inputs: Inputs, rows: slice, keeper: Keeper | None) -> Hook:
    """Let B's stream enter each layer; what A itself would give its first layer is kept."""
    take = keeper.taking(ENTERED) if keeper else None

    def enter(layer: int, values: Tensor) -> Tensor:
        if layer == 0 and take:
            take(layer, values)
        return inputs.kept[ENTERED, layer][rows].to(values)

    return enter


def _leaving(model: Model, inputs: Inputs, rows: slice, keeper: Keeper) -> Hook:
    """Keep what each layer returns; B's stream goes on to the final norm."""
    take, last = keeper.taking(LEFT), model.layers - 1

    def leave(layer: int, values: Tensor) -> Tensor | None:
        take(layer, values)
        return inputs.kept[LEFT, layer][rows].to(values) if layer == last else None

    return leave


def _require_resuming(model: Model) -> None:
    check_resumes(model, range(1, model.layers))
    if broken := [layer for layer in range(1, model.layers) if not model.resumes.get(layer)]:
        raise NotMeasurable(
            f"layer {broken[0]} of {model.slug} needs more from earlier layers than the residual "
            "stream"
        )


@torch.no_grad()
def restore(model: Model, inputs: Inputs, answers: Answers, place: Place) -> Tensor:
    """Return B's losses with one place restored from A, nats, (rows, targets).

    Args:
        model: B, as it was when its inputs were kept.
        inputs: B's.
        answers: A's.
        place: what is restored.

    Raises:
        NotMeasurable: the place cannot be restored.
        ModelError: the hook did not act.
    """
    if place.kind == "unembedding":
        assert answers.unembedded is not None
        return answers.unembedded
    layer = place.layer or 0
    if why := answers.problems.get((place.kind, layer)):
        raise NotMeasurable(f"{place.name} cannot be restored: {why}")
    _require_resuming(model)
    model.anatomy  # noqa: B018 - found by a pass of its own, which must not begin in the middle
    texts, parts = inputs.texts, list[TokenLosses]()

    def work(start: int, stop: int) -> None:
        acted: list[int] = []
        taps = _restoring(model, answers, place, slice(start, stop), acted)
        entered = inputs.kept[ENTERED, layer]
        if place.kind == "embedding":
            entered = answers.kept[ENTERED, 0]
            acted.append(0)
        stream = Stream(layer, entered.to(model.embedding), inputs.wrapped.get(layer, False))
        with resume(model.runner, stream, torch.arange(start, stop)), taps.on(model):
            logits = model.run_pass(texts.input_ids[start:stop], ForwardHooks(), texts.targets - 1)
        if not acted:
            raise ModelError(f"restoring {place.name} did not act")
        parts.append(score_targets(logits, texts.input_ids[start:stop][:, texts.targets]))

    run_in_batches(texts.input_ids.shape, model.limit, work, targets=len(texts.targets))
    return join_losses(parts).nll


def _restoring(model: Model, answers: Answers, place: Place, rows: slice, acted: list[int]) -> Taps:
    """The hooks that put A's output of a place into the pass."""

    def put(what: str) -> Hook:
        def hook(layer: int, values: Tensor) -> Tensor | None:
            if layer != place.layer:
                return None
            acted.append(layer)
            return answers.kept[what, layer][rows].to(values)

        return hook

    if place.kind == "head":
        return Taps(project=_restoring_head(model, answers, place, rows, acted))
    return {
        "embedding": Taps(),
        "layer": Taps(leave=put(LEFT)),
        "attention": Taps(write=put(WRITTEN)),
        "mlp": Taps(mlp=put(MLP)),
    }[place.kind]


def _restoring_head(
    model: Model, answers: Answers, place: Place, rows: slice, acted: list[int]
) -> Projection:
    """Put A's head in the place of B's: the input of B's output projection is not enough, for
    the head's columns of the projection are its parameters too."""
    assert place.layer is not None and place.head is not None
    index, layer = place.layer, model.anatomy.layers[place.layer]
    own = slice(place.head * layer.width, (place.head + 1) * layer.width)

    def change(number: int, given: Tensor, written: Tensor) -> Tensor | None:
        if number != index:
            return None
        acted.append(index)
        theirs = answers.kept[READ, index][rows][..., own].to(written)
        after = theirs @ answers.matrices[index][:, own].to(written).T
        before = given[..., own] @ layer.output_matrix()[:, own].to(written).T
        return written - before + after.reshape(before.shape)

    return change
