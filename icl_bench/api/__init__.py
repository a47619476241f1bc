"""The Python API: the same measurements as the suites, one call each."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from icl_bench.api.ablations import ablation_sweep, minimal_set, token_losses
from icl_bench.api.arguments import check_model, check_tokens, check_word
from icl_bench.api.head_sets import MinimalSet
from icl_bench.api.running import run
from icl_bench.errors import SettingsError, SpecError, nearest
from icl_bench.measures.draws import STREAMS
from icl_bench.measures.tokens import RepeatedTokens, draw_repeated
from icl_bench.models.model import Model
from icl_bench.models.opening.opening import open_model, wrap
from icl_bench.models.sources.checking import check_spec
from icl_bench.models.sources.parsing import parse_spec
from icl_bench.naming import plain_name
from icl_bench.options import RunOptions
from icl_bench.probes.design.replacement import Method
from icl_bench.probes.design.settings import TokenPool
from icl_bench.records.record import RunRecord

if TYPE_CHECKING:
    import pandas as pd


def load_model(
    spec: str | Path,
    *,
    device: str = "auto",
    dtype: str = "auto",
    batch_size: int | None = None,
    cache_dir: str | Path | None = None,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
) -> Model:
    """Open the model that a spec names.

    Args:
        spec: `builtin:NAME`, hub id, local folder, `FILE.gguf` or `package.module:callable`; one
            checkpoint of a series by `@STEP`; `NAME=` before it names the model in reports.
        device: auto, cpu, cuda, cuda:N, or split (over all devices, then memory, then disk).
        dtype: auto, float32, bfloat16 or float16.
        batch_size: rows of a forward pass; None to choose.
        cache_dir: folder for float copies of GGUF files.
        trust_remote_code: run code that the model brings.
        allow_pickle: read weights that are stored as pickles.

    Raises:
        SpecError: the spec is wrong, or what it names does not exist.
        ModelError: the model cannot be loaded or run.
    """
    if isinstance(spec, os.PathLike):
        spec = os.fspath(spec)
    if not isinstance(spec, str):
        how = "it is open already" if isinstance(spec, Model) else "wrap(model, tokenizer) takes it"
        raise SpecError(f"a spec is a text, not {type(spec).__name__}: {how}")
    parsed = parse_spec(spec)
    parsed.require_one()
    check_spec(parsed, allow_pickle=allow_pickle)
    options = RunOptions(
        device=device,
        dtype=dtype,
        batch_size=batch_size,
        cache_dir=None if cache_dir is None else Path(cache_dir),
        trust_remote_code=trust_remote_code,
        allow_pickle=allow_pickle,
    )
    options.validate()
    return open_model(parsed, plain_name(parsed), options)


def repeated_tokens(
    model: Model,
    sequences: int = 32,
    period: int = 50,
    repeats: int = 2,
    seed: int = 0,
    *,
    stream: str = "select",
    token_pool: TokenPool = "uniform",
    bos: Literal["auto", "always", "never"] = "auto",
) -> RepeatedTokens:
    """Draw random blocks, repeated, from the model's usable vocabulary, after BOS if it has one.

    With the settings of a suite's measurement these are its own sequences.

    Args:
        model: the model.
        sequences: number of sequences.
        period: tokens in a block, drawn without replacement.
        repeats: copies of the block in all.
        seed: seed of the draws.
        stream: which of the seed's independent streams: `select`, on which heads are chosen
            (`induction`), `test`, on which they are ablated (`ablation`, `losses`), `retest` ...
        token_pool: `uniform` for all usable ids, `frequent` for those that stand first.
        bos: whether BOS is put first: `auto` where there is one, `always`, `never`.

    Raises:
        MeasurementError: the vocabulary is smaller than the block, or there is no BOS to put first.
        SettingsError: an argument is out of range.
    """
    model = check_model(model)
    if stream not in STREAMS:
        raise SettingsError(f"unknown stream {stream!r}; {nearest(stream, STREAMS)}")
    check_word("token_pool", token_pool, ("uniform", "frequent"))
    check_word("bos", bos, ("auto", "always", "never"))
    if sequences < 1 or period < 2 or repeats < 2 or seed < 0:
        raise SettingsError("required: sequences >= 1, period >= 2, repeats >= 2, seed >= 0")
    return draw_repeated(
        model.pool(token_pool),
        sequences=sequences,
        period=period,
        repeats=repeats,
        seed=seed,
        bos=model.choose_bos(bos),
        stream=stream,
    )


def head_scores(model: Model, tokens: RepeatedTokens) -> pd.DataFrame:
    """Attention scores of every head on repeated tokens.

    Args:
        model: the model.
        tokens: the sequences, drawn or built by hand.

    Returns:
        one row per head: layer, head, induction, previous_token, duplicate_token, first_token,
        and sink_logit where the model has sink logits, each with its standard error over sequences
        in `*_stderr` (missing for one sequence).

    Raises:
        NotMeasurable: the model has no attention heads.
        MeasurementError: the sequences are longer than the model's context.
    """
    import pandas as pd

    from icl_bench.probes.heads.induction import head_rows, score_heads

    model, tokens = check_model(model), check_tokens(tokens)
    frame = pd.DataFrame(head_rows(model, score_heads(model, tokens)))
    names = ["induction", "previous_token", "duplicate_token", "first_token"]
    names += ["sink_logit"] if "sink_logit" in frame else []
    columns = ["layer", "head", *names, *(f"{name}_stderr" for name in names)]
    return frame.reindex(columns=columns)


class Bench:
    """The functions of this module with the model filled in; what the `icl` fixture gives.

    Args:
        model: the model under test.
        cache: whether `run` keeps measurements and takes them from the cache.
        cache_dir: folder for that; None for the default.
        cache_limit: what they may take there; see `icl_bench.run`.
    """

    def __init__(
        self,
        model: Model,
        *,
        cache: bool = True,
        cache_dir: str | Path | None = None,
        cache_limit: int | str | None = None,
    ) -> None:
        self.model = model
        self._cached: dict[str, Any] = {
            "cache": cache,
            "cache_dir": cache_dir,
            "cache_limit": cache_limit,
        }

    def __repr__(self) -> str:
        return f"<Bench of {self.model!r}>"

    def repeated_tokens(
        self, sequences: int = 32, period: int = 50, repeats: int = 2, seed: int = 0, **more: Any
    ) -> RepeatedTokens:
        """See `icl_bench.repeated_tokens`."""
        return repeated_tokens(self.model, sequences, period, repeats, seed, **more)

    def head_scores(self, tokens: RepeatedTokens | None = None) -> pd.DataFrame:
        """See `icl_bench.head_scores`; without tokens, on the default ones."""
        return head_scores(self.model, tokens or self.repeated_tokens())

    def token_losses(
        self,
        input_ids: Tensor,
        ablate: Iterable[Sequence[int | str]] = (),
        method: Method = "zero",
        **more: Any,
    ) -> Tensor:
        """See `icl_bench.token_losses`."""
        return token_losses(self.model, input_ids, ablate, method, **more)

    def ablation_sweep(
        self,
        tokens: RepeatedTokens | None = None,
        method: Method = "zero",
        exact: bool = True,
        **more: Any,
    ) -> pd.DataFrame:
        """See `icl_bench.ablation_sweep`; without tokens, on the default ones."""
        tokens = tokens or self.repeated_tokens()
        return ablation_sweep(self.model, tokens, method, exact, **more)

    def minimal_set(
        self, tokens: RepeatedTokens | None = None, share: float = 0.9, method: Method = "mean"
    ) -> MinimalSet:
        """See `icl_bench.minimal_set`; without tokens, on four default sequences."""
        return minimal_set(self.model, tokens or self.repeated_tokens(4), share, method)

    def run(self, suites: Sequence[str | Path] = ("core",)) -> RunRecord:
        """See `icl_bench.run`."""
        return run(suites, self.model, **self._cached)

    def path_patching(
        self,
        receivers: Sequence[Sequence[int]],
        tokens: RepeatedTokens | None = None,
        senders: Sequence[Sequence[int]] | None = None,
        side: str | Sequence[str] = "key",
        *,
        together: bool = False,
    ) -> pd.DataFrame:
        """See `icl_bench.path_patching`; without tokens, on the default ones."""
        from icl_bench.api.circuits import path_patching

        tokens = tokens or self.repeated_tokens()
        return path_patching(self.model, tokens, receivers, senders, side, together=together)

    def logit_attribution(self, tokens: RepeatedTokens | None = None) -> pd.DataFrame:
        """See `icl_bench.logit_attribution`; without tokens, on the default ones."""
        from icl_bench.api.attributions import logit_attribution

        return logit_attribution(self.model, tokens or self.repeated_tokens())

    def attention_attribution(
        self, receivers: Sequence[Sequence[int]], tokens: RepeatedTokens | None = None
    ) -> pd.DataFrame:
        """See `icl_bench.attention_attribution`; without tokens, on the default ones."""
        from icl_bench.api.attributions import attention_attribution

        return attention_attribution(self.model, tokens or self.repeated_tokens(), receivers)


__all__ = [
    "Bench",
    "head_scores",
    "load_model",
    "repeated_tokens",
    "run",
    "wrap",
]
