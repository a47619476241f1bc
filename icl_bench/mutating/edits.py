"""The edits by their fixed names: what each does, where it is planted, and what plants it.

No torch is imported here: the command lists the table without a model.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from icl_bench.errors import SettingsError, nearest

if TYPE_CHECKING:
    from icl_bench.mutating.planting import Site

At = Literal["circuit", "layers", "idle", "model"]
"""Where an edit is planted: at each head of the circuit, in each of their layers, at idle heads, or
in the whole model."""


@dataclass(frozen=True)
class Edit:
    """One kind of damage, or a change that must not count as one.

    Args:
        name: fixed; users and reports name it.
        change: what it does, in one line.
        home: `module:function` that plants it, below this package.
        at: where it is planted.
        neutral: whether it changes nothing, by algebra or but for rounding, so that a suite must
            pass.
    """

    name: str
    change: str
    home: str
    at: At = "model"
    neutral: bool = False

    def plant(self, site: Site) -> None:
        """Change the open model.

        Args:
            site: the model and the place; it puts everything back.

        Raises:
            NotMeasurable: the model's family has no such thing.
        """
        module, _, name = self.home.partition(":")
        function: Callable[[Site], None] = getattr(
            importlib.import_module(f"{__package__}.{module}"), name
        )
        function(site)


_DAMAGE = (
    ("head-zero", "a head's output is 0", "heads:zero", "circuit"),
    ("head-half", "a head's output is halved", "heads:half", "circuit"),
    ("head-90", "a head's output is 90% of what it was", "heads:ninety", "circuit"),
    (
        "heads-swapped",
        "two heads of different key/value groups exchange their queries and outputs",
        "heads:swap_across",
        "circuit",
    ),
    (
        "key-noise",
        "noise as large as the weights is added to a head's key matrix",
        "heads:add_key_noise",
        "circuit",
    ),
    (
        "kv-neighbour",
        "a head reads the keys and values of the next group",
        "heads:take_neighbour",
        "circuit",
    ),
    (
        "shift",
        "queries are rotated as if they stood one position later",
        "rotary:shift_queries",
        "model",
    ),
    ("rope-base", "rotary frequencies are made with another base", "rotary:change_base", "model"),
    (
        "rope-halves",
        "rotary pairs are cut the other way (interleaved instead of halves)",
        "rotary:cut_otherwise",
        "model",
    ),
    (
        "rope-scaling-dropped",
        "rotary frequencies lose their scaling",
        "rotary:drop_scaling",
        "model",
    ),
    (
        "softmax-scale",
        "attention scores are divided by 1.41, as for heads twice as wide",
        "calls:scale_scores",
        "model",
    ),
    ("softcap-dropped", "attention scores lose their soft cap", "calls:drop_softcap", "model"),
    ("short-window", "queries see half a period back", "calls:shorten_window", "model"),
    ("leak", "the causal mask lets one token ahead through", "calls:leak", "model"),
    ("sink-evicted", "later queries cannot see the first position", "calls:evict_sink", "model"),
    (
        "gqa-repeat",
        "key/value heads are repeated as a block, not one by one",
        "calls:repeat_blocks",
        "model",
    ),
    ("qkv-order", "keys and values are exchanged", "heads:exchange_keys_values", "model"),
    ("int8", "matrices are rounded to 8 bits per row", "matrices:int8", "model"),
    ("int4", "matrices are rounded to 4 bits per row", "matrices:int4", "model"),
    ("int3", "matrices are rounded to 3 bits per row", "matrices:int3", "model"),
    (
        "int8-tensor",
        "matrices are rounded to 8 bits, one scale per matrix",
        "matrices:int8_tensor",
        "model",
    ),
    (
        "bf16-positions",
        "rotary angles are computed in bfloat16",
        "rotary:round_positions",
        "model",
    ),
    ("pruned-half", "the smaller half of each matrix is 0", "matrices:prune_half", "model"),
    (
        "pruned-2of4",
        "of each four weights of a row the two smaller are 0",
        "matrices:prune_two_of_four",
        "model",
    ),
    ("norm-double", "the output of a layer's first norm is doubled", "layers:double", "layers"),
    ("layer-skipped", "a layer returns what it was given", "layers:skip", "layers"),
    (
        "embedding-permuted",
        "two rows of the token embedding are exchanged",
        "matrices:permute_embedding",
        "model",
    ),
    (
        "lora-twice",
        "a low-rank update of 5% of the query and value matrices is added once more",
        "heads:add_update",
        "model",
    ),
    ("channel-nan", "one output channel of a matrix is NaN", "layers:spoil_channel", "layers"),
)
_NEUTRAL = (
    (
        "positions-shifted",
        "all rotary positions are 7 higher",
        "rotary:shift_positions",
        "model",
    ),
    (
        "heads-swapped-in-group",
        "two heads of one key/value group exchange their places",
        "neutral:swap_inside",
        "circuit",
    ),
    (
        "value-scaled",
        "values are doubled, the outputs that read them halved",
        "neutral:scale_values",
        "circuit",
    ),
    (
        "value-turned",
        "values are turned, the outputs that read them turned back",
        "neutral:turn_values",
        "circuit",
    ),
    ("key-bias", "a constant is added to a head's keys", "neutral:add_key_bias", "circuit"),
    ("idle-head-zero", "the output of a head that does nothing is 0", "heads:zero", "idle"),
    (
        "idle-head-noise",
        "noise is added to the keys of a head that does nothing",
        "heads:add_key_noise",
        "idle",
    ),
    ("bf16-weights", "all weights are rounded to bfloat16", "neutral:round_weights", "model"),
    ("batch-size", "the model runs with another batch size", "neutral:change_batch", "model"),
)

EDITS: dict[str, Edit] = {
    edit.name: edit
    for edit in (
        *(Edit(*row) for row in _DAMAGE),  # type: ignore[arg-type]
        *(Edit(*row, neutral=True) for row in _NEUTRAL),  # type: ignore[arg-type]
    )
}
"""Name -> edit, in the order of reports."""


def choose_edits(names: Iterable[str] = ()) -> list[Edit]:
    """Return the edits of some names, in the order of the table; all of them for none.

    Args:
        names: fixed names.

    Raises:
        SettingsError: one is not known.
    """
    wanted = list(names)
    for name in wanted:
        if name not in EDITS:
            raise SettingsError(f"no edit is called {name!r}; {nearest(name, EDITS)}")
    return [edit for edit in EDITS.values() if not wanted or edit.name in wanted]
