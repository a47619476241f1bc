"""Probe `fuzzy`: whether a word finds the token that followed its near-synonym."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from icl_bench.errors import NotMeasurable
from icl_bench.measures.bounds import UNIT
from icl_bench.probes.design.context import Context
from icl_bench.probes.design.sequential import PoolSettings
from icl_bench.probes.design.settings import HeadList, HeadSelection
from icl_bench.probes.protocol import MetricInfo, Probe
from icl_bench.records.parts import Measurement
from icl_bench.tasks import load_fuzzy_items

if TYPE_CHECKING:
    import numpy as np

    from icl_bench.models.attention.ablation import Head
    from icl_bench.models.model import Model
    from icl_bench.probes.texts.fuzzy_contexts import Contexts

QUERIES = ("exact", "fuzzy", "unrelated")
"""The word itself (ceiling), its near-synonym, an unrelated word (floor)."""


def _check_template(text: str) -> str:
    fields = ("{a}", "{b}", "{c}", "{d}", "{query}")
    places = [text.find(field) for field in fields]
    if any(text.count(field) != 1 for field in fields) or places != sorted(places):
        raise ValueError(f"a template has {', '.join(fields)}, each once and in this order")
    if not text.endswith("{query}"):
        raise ValueError("a template ends with {query}: what follows it is predicted")
    return text


class Settings(PoolSettings):
    """What a suite may set for the `fuzzy` probe."""

    grows: ClassVar[str] = "items"

    items: Annotated[int, Field(ge=2)] | None = None
    """Items to use, the first ones; all when not given."""
    max_items: Annotated[int, Field(ge=2)] | None = None
    """With `until`: items at the last interim analysis; `items` are those at the first."""
    template: Annotated[str, AfterValidator(_check_template)] = "Here: {a} {b}. {c} {d}. {query}"
    """Format of a context."""
    heads: HeadSelection | HeadList | None = None
    """Heads to ablate, and whose attention is read; none when not given."""
    method: Literal["zero", "mean"] = "mean"
    """What replaces their outputs: nothing, or their mean over all positions of the contexts."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of heads chosen at random and of a random `order`."""

    @model_validator(mode="after")
    def _items_are_there(self) -> Settings:
        most = len(load_fuzzy_items())
        if self.max_items is not None and self.max_items > most:
            raise ValueError(f"'max_items' {self.max_items} is above the {most} items that exist")
        return self

    @property
    def absent(self) -> dict[str, str]:
        """What is read of heads and with heads off, where there are none."""
        names = ("heads", *ATTENTION, *ABLATED)
        return dict.fromkeys(names, "no heads in the suite") if self.heads is None else {}


METRICS: dict[str, MetricInfo] = {
    "fuzzy_effect": MetricInfo(
        "logit of the name that followed the near-synonym minus the other name's", "up", "nats"
    ),
    "exact_effect": MetricInfo("the same after the word itself", "up", "nats"),
    "unrelated_effect": MetricInfo("the same after an unrelated word", None, "nats"),
    "fuzzy_share": MetricInfo(
        "(fuzzy_effect - unrelated_effect) / (exact_effect - unrelated_effect)", "up", "ratio"
    ),
    "items": MetricInfo("items measured", None, "items", True),
    "skipped": MetricInfo("items whose tokens do not fit", None, "items", True),
    "heads": MetricInfo("number of heads read and switched off", None, "heads", True),
    "fuzzy_attention": MetricInfo(
        "attention of the heads from the near-synonym to the name, mean over heads",
        "up",
        "probability",
        bounds=UNIT,
    ),
    "exact_attention": MetricInfo(
        "the same from the word itself", "up", "probability", bounds=UNIT
    ),
    "unrelated_attention": MetricInfo(
        "the same from an unrelated word", None, "probability", bounds=UNIT
    ),
    "fuzzy_effect_ablated": MetricInfo("fuzzy_effect with the heads off", None, "nats"),
    "exact_effect_ablated": MetricInfo("exact_effect with the heads off", None, "nats"),
    "fuzzy_effect_lost": MetricInfo("fuzzy_effect minus fuzzy_effect_ablated", "up", "nats"),
    "exact_effect_lost": MetricInfo("exact_effect minus exact_effect_ablated", "up", "nats"),
}
ATTENTION = tuple(f"{query}_attention" for query in QUERIES)
ABLATED = ("fuzzy_effect_ablated", "exact_effect_ablated", "fuzzy_effect_lost", "exact_effect_lost")


def measure(model: Model, settings: Settings, context: Context) -> Measurement:
    """Ask which of two names follows a word whose near-synonym one of them followed.

    Args:
        model: the model.
        settings: items, contexts and heads.
        context: the measurement that heads are chosen from, and progress.

    Raises:
        NotMeasurable: there is no tokenizer, or fewer than two items fit it.
        MeasurementError: a head does not exist, or a context does not fit the model.
    """
    from icl_bench.measures import statistics as st
    from icl_bench.measures.tokens import digest_tokens
    from icl_bench.models.clean_run import run_base
    from icl_bench.probes.design.head_selection import choose_heads
    from icl_bench.probes.texts.fuzzy_contexts import lay_out_items

    items = settings.arrange(load_fuzzy_items(), settings.seed)[: settings.items]
    laid = lay_out_items(model, items, settings.template)
    if len(laid.items) < 2:
        reason = laid.skipped[0]["reason"] if laid.skipped else "there are none"
        raise NotMeasurable(f"fewer than two items fit the tokenizer ({reason})")
    model.require_context(laid.input_ids.shape[1])
    heads: list[Head] = []
    if settings.heads is not None:
        model.require_heads()
        heads = choose_heads(model, settings, context.upstream)

    rows = len(laid.input_ids) * (3 if heads else 1)
    with context.task("contexts with near-synonyms", rows) as advance:
        first = {min(layer for layer, _ in heads)} if heads else set()
        base = run_base(
            model,
            laid.input_ids,
            laid.targets,
            first,
            answers=laid.answers,
            advance=advance,
        )
        effects = laid.effects(base.losses.nll)
        result = Measurement(
            probe="fuzzy",
            settings=settings.model_dump(by_alias=True, exclude_none=True),
            tokens_sha256=digest_tokens(laid.input_ids),
            tables={"skipped": laid.skipped},
        )
        _summarize(result, laid, effects, settings.confidence)
        if heads:
            _read_attention(result, model, laid, heads, settings.confidence, advance)
            ablated = _switch_off(model, settings, laid, heads, base, advance)
            _compare(result, effects, ablated, settings.confidence)
    if settings.heads is not None:
        result.metrics["heads"] = st.exact_metric(len(heads))
    if not heads:
        nothing = dict.fromkeys((*ATTENTION, *ABLATED), "no head qualifies")
        result.unmeasured |= settings.absent or nothing
    return result


def _summarize(
    result: Measurement, laid: Contexts, effects: dict[str, np.ndarray], confidence: float
) -> None:
    from icl_bench.measures import statistics as st

    for query in QUERIES:
        result.metrics[f"{query}_effect"] = st.mean_metric(effects[query], confidence=confidence)
    ceiling = effects["exact"] - effects["unrelated"]
    if ceiling.mean() > 0:
        above = effects["fuzzy"] - effects["unrelated"]
        result.metrics["fuzzy_share"] = st.share_metric(above, ceiling, confidence=confidence)
    else:
        why = f"exact repeats do no better than unrelated words ({ceiling.mean():.3g} nats)"
        result.unmeasured["fuzzy_share"] = why
    result.metrics["items"] = st.exact_metric(len(laid.items))
    result.metrics["skipped"] = st.exact_metric(len(laid.skipped))
    result.tables["items"] = [
        {"word": item.word, "synonym": item.synonym}
        | {f"{query}_effect": float(effects[query][place]) for query in QUERIES}
        for place, item in enumerate(laid.items)
    ]


def _read_attention(
    result: Measurement,
    model: Model,
    laid: Contexts,
    heads: list[Head],
    confidence: float,
    advance: Any,
) -> None:
    """Add the attention from the query's last token to the name's first token."""
    import numpy as np

    from icl_bench.measures.statistics import mean_metric

    pairs = {"bound": laid.pairs(), "other": laid.pairs(other=True)}
    scores = model.head_scores(laid.input_ids, pairs, advance=advance)
    rows = []
    values: dict[str, list[np.ndarray]] = {query: [] for query in QUERIES}
    for layer, head in heads:
        row: dict[str, Any] = {"layer": layer, "head": head}
        for query in QUERIES:
            own = laid.gather(scores["bound"][layer][:, head].double().numpy())[query]
            other = laid.gather(scores["other"][layer][:, head].double().numpy())[query]
            values[query].append(own)
            metric = mean_metric(own, keep=False, unit=True)
            row |= {query: metric.value, f"{query}_stderr": metric.stderr}
            row[f"{query}_other"] = float(other.mean())
        rows.append(row)
    result.tables["attention"] = rows
    for query in QUERIES:
        mean = np.mean(values[query], axis=0)
        metric = mean_metric(mean, unit=True, confidence=confidence)
        result.metrics[f"{query}_attention"] = metric


def _switch_off(
    model: Model,
    settings: Settings,
    laid: Contexts,
    heads: list[Head],
    base: Any,
    advance: Any,
) -> dict[str, np.ndarray]:
    """Return the effects with the heads off."""
    from icl_bench.models.attention.ablation import ZEROS, Replacement
    from icl_bench.models.circuits.interventions import switch_off

    replacement = ZEROS
    if settings.method == "mean":
        plain = laid.input_ids[:, : laid.shortest]
        prefix = int(model.bos is not None and bool((plain[:, 0] == model.bos).all()))
        values = model.mean_outputs(plain, prefix, {layer for layer, _ in heads})
        replacement = Replacement(values)
    off = switch_off(model, base, [heads], replacement, advance=advance)
    return laid.effects(off.nll[0])


def _compare(
    result: Measurement,
    clean: dict[str, np.ndarray],
    ablated: dict[str, np.ndarray],
    confidence: float,
) -> None:
    """Add the effects with the heads off, and what is lost of them."""
    from icl_bench.measures.statistics import mean_metric

    for query in ("fuzzy", "exact"):
        lost = clean[query] - ablated[query]
        for name, found in (("ablated", ablated[query]), ("lost", lost)):
            metric = mean_metric(found, confidence=confidence)
            result.metrics[f"{query}_effect_{name}"] = metric


PROBE = Probe("fuzzy", Settings, METRICS, measure)
