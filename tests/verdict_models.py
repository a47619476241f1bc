"""Hand-set models that have the induction circuit, in its textbook form or another.

A docstring says what a model does and what is right; `verdict_table` has it check by check.
"""

from __future__ import annotations

from typing import Any

from handset import (
    BOS,
    FIRST,
    PREVIOUS,
    SINK,
    TOKEN,
    add_induction,
    add_positional,
    add_previous_token,
    blank,
    textbook,
)

from icl_bench import load_model
from icl_bench.reference import handwired as hw
from icl_bench.reference.architecture import IclReferenceForCausalLM

Built = IclReferenceForCausalLM


def textbook_circuit(heads: int) -> Built:
    """Has one previous-token head and one induction head; the other heads do nothing.

    Right: passes, however many heads a layer has.
    """
    return textbook(heads)


def shared_induction(count: int, attention: float) -> Built:
    """Shares copying among equal heads, each of which gives less than .4 to a match.

    Right: fails, in `has-induction-heads` alone, which is about one head above .4. The heads
    together copy, and with all of them off copying is lost. `olsson` passes, where attention to
    several earlier occurrences adds up.
    """
    model = blank(heads=max(4, 2 * count))
    add_previous_token(model)
    for index in range(count):
        add_induction(model, index=index, attention=attention, write=1 / (attention * count))
    return model


def crowded_layer() -> Built:
    """Has a second layer in which all four heads match and copy a quarter of the token each.

    Right: passes; there is no other head in that layer to compare with.
    """
    return matching_heads(*[0.25] * 4)


def two_layers_copy() -> Built:
    """Has two heads that match and copy half of the token each, in the second and third layer.

    Right: passes.
    """
    model = blank(layers=3)
    add_previous_token(model)
    for layer in (1, 2):
        add_induction(model, layer=layer, write=0.5)
    return model


def shared_previous_token(count: int) -> Built:
    """Shares the previous-token head's work among equal heads, each of which attends there by .3.

    Right: fails, in `has-previous-token-head` alone, which is about one head above .4. Heads do
    the work here, so the check is not skipped as it is for a shift.
    """
    model = blank()
    for index in range(count):
        add_previous_token(model, index, attention=0.3, write=1 / (0.3 * count))
    add_induction(model)
    return model


def token_shift() -> Built:
    """Has a shift of the stream by one token in the place of the previous-token head.

    RWKV and models with short convolutions have such shifts. Right: passes; the circuit requires
    no previous-token head here, so that check is skipped with this reason.
    """
    model = blank()
    add_induction(model)

    def shift(module: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        stream = (arguments[0] if arguments else named["hidden_states"]).clone()
        stream[:, 1:, PREVIOUS] = stream[:, :-1, TOKEN]
        if arguments:
            return (stream, *arguments[1:]), named
        return arguments, {**named, "hidden_states": stream}

    model.model.layers[1].register_forward_pre_hook(shift, with_kwargs=True)
    return model


def bos_only() -> Built:
    """Copies only where `<bos>` stands in front; else the head rests on the first token.

    Right: passes, since models are measured with their `<bos>`; measured without, it fails.
    """
    model = blank()
    add_previous_token(model)
    head = add_induction(model)
    head.key[SINK, FIRST] = 1.5
    head.key[SINK, BOS] = -0.91
    return model


def matching_heads(*writes: float) -> Built:
    """Return a model with a matching head for each number, which writes that much of the token."""
    model = blank()
    add_previous_token(model)
    for index, write in enumerate(writes):
        add_induction(model, index=index, write=write)
    return model


def idle_induction_beside() -> Built:
    """Has two heads that attend alike by match, of which one copies and one writes nothing.

    Right: passes; with both ablated copying is lost.
    """
    return matching_heads(1, 0)


def negative_beside() -> Built:
    """Has two heads that attend alike by match: one copies, one takes .3 of it back.

    Right: passes; copying remains and is lost with the heads.
    """
    return matching_heads(1, -0.3)


def slightly_negative_beside() -> Built:
    """Has two heads that attend alike by match: one copies, one takes .1 of it back.

    Right: passes, as with .3.
    """
    return matching_heads(1, -0.1)


def positional_beside_circuit(period: int) -> Built:
    """Adds to the textbook circuit a head that attends by position and writes nothing.

    At its period both heads attend alike. Right: passes; the other head does not harm.
    """
    model = textbook()
    add_positional(model, period, write=0)
    return model


def loud() -> Built:
    """Has the textbook circuit with logits so large that the loss on repeats is exactly 0.

    Right: passes; ratios to a loss of 0 are not measured, with this reason.
    """
    return textbook(gain=4 * hw.GAIN)


def trained_two_layers() -> Any:
    """Was trained with two layers of attention on repeats and sentences (`builtin:induction-2l`).

    Right: passes.
    """
    return load_model("builtin:induction-2l").model
