"""Probe `icl_score`: how much later tokens of natural text gain from what came before."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from icl_bench.errors import NotMeasurable
from icl_bench.measures.bounds import UNIT
from icl_bench.probes.design.context import Context
from icl_bench.probes.prompts.corpus import (
    Corpus,
    choose_documents,
)
from icl_bench.probes.protocol import MetricInfo, Probe
from icl_bench.probes.texts.icl_settings import Settings
from icl_bench.probes.texts.report import report_icl_score
from icl_bench.probes.texts.text_rows import (
    score_previous,
    tabulate_documents,
    tabulate_positions,
    tabulate_text,
)
from icl_bench.records.parts import Measurement

if TYPE_CHECKING:
    from torch import Tensor

    from icl_bench.measures.positions import PositionLosses
    from icl_bench.models.model import Model
    from icl_bench.probes.prompts.corpus import Chosen

UNKNOWN = 0.01
"""Share of unknown tokens from which a text is not one that the model can read."""
HELD_OUT = 8
"""Windows of documents that are not measured, which means and samples are taken from."""


METRICS: dict[str, MetricInfo] = {
    "icl_score": MetricInfo("loss of the 500th minus that of the 50th token", "down", "nats"),
    "icl_score_windowed": MetricInfo(
        "mean loss of targets 256 to 510 minus that of targets 32 to 63", "down", "nats"
    ),
    "text_loss": MetricInfo("mean loss on the text", "down", "nats"),
    "documents": MetricInfo("documents measured", None, "documents", True),
    "previous_token_text_max": MetricInfo(
        "highest previous-token score on the text, chosen and read on different documents",
        "up",
        "probability",
        bounds=UNIT,
    ),
    "heads": MetricInfo("number of heads switched off", None, "heads", True),
    "text_loss_ablated": MetricInfo("text_loss with the heads off", None, "nats"),
    "text_delta": MetricInfo("rise of text_loss, paired", None, "nats"),
    "icl_score_windowed_ablated": MetricInfo("icl_score_windowed with the heads off", None, "nats"),
    "icl_score_delta": MetricInfo("rise of icl_score_windowed, paired", "up", "nats"),
    "icl_share_text": MetricInfo(
        "share of the windowed ICL score that goes with the heads", "up", "ratio"
    ),
    "null_p_value": MetricInfo(
        "p-value of icl_score_delta against layer-matched random heads",
        "down",
        "probability",
        True,
    ),
    "null_p_value_loss": MetricInfo(
        "p-value of text_delta against layer-matched random heads", "down", "probability", True
    ),
    "null_observed_share": MetricInfo(
        "icl_share_text of the chosen heads on the null's documents", "up", "ratio", True
    ),
    "null_median_share": MetricInfo("median icl_share_text of the null", None, "ratio", True),
    "null_max_share": MetricInfo("largest icl_share_text of the null", None, "ratio", True),
    "null_observed_delta": MetricInfo(
        "text_delta of the chosen heads on the null's documents", None, "nats", True
    ),
    "null_median_delta": MetricInfo("median text_delta of the null", None, "nats", True),
    "null_max_delta": MetricInfo("largest text_delta of the null", None, "nats", True),
}


def measure(model: Model, settings: Settings, context: Context) -> Measurement:
    """Measure the loss at every position of natural text, and what it is with heads off.

    Args:
        model: the model.
        settings: which text, and which heads.
        context: the measurement that heads are chosen from, and progress.

    Raises:
        NotMeasurable: no tokenizer, or one that does not know the text; a context shorter than a
            window; no document that fills one; another text than the suite means; no heads.
        MeasurementError: a data set cannot be had, or a head does not exist.
    """
    import torch

    from icl_bench.measures.positions import average_windows, cut_windows
    from icl_bench.measures.tokens import digest_tokens
    from icl_bench.probes.texts.icl_ablation import CleanText, ablate

    corpus, chosen = _choose_text(model, settings)
    prefix, measured = chosen.prefix, chosen.documents
    windows = cut_windows(
        [ids for _, ids in measured], prefix, settings.window, settings.windows_per_document
    )
    _require_known(model, windows.input_ids, corpus)
    batches = [windows.input_ids]
    targets = torch.arange(1, settings.window)
    with context.task("losses on text", len(windows.input_ids)) as advance:
        run = context.base_run(model, windows.input_ids, targets, (), advance)
    clean = average_windows(windows, run.losses.nll)
    result = Measurement(
        probe="icl_score",
        settings=_describe(settings, corpus),
        tables={
            "text": tabulate_text(corpus, chosen, windows),
            "documents": tabulate_documents(measured, windows, clean),
            "positions": tabulate_positions(clean),
        },
    )
    _summarize(result, settings, clean)
    if settings.previous_token:
        score_previous(result, model, windows, context, settings.confidence)
    result.unmeasured |= settings.absent
    if settings.heads is not None:
        held_out = None
        if len(prefix) + len(chosen.spare) >= settings.window:
            held_out = cut_windows([chosen.spare], prefix, settings.window, HELD_OUT)
        text = CleanText(windows, run, clean)
        batches += ablate(result, model, settings, context, text, held_out)
    result.tokens_sha256 = digest_tokens(*batches)
    return result


def _choose_text(model: Model, settings: Settings) -> tuple[Corpus, Chosen]:
    """Return the text, and the documents of it that fill a window."""
    if settings.heads is not None or settings.previous_token:
        model.require_heads()
    if model.tokenizer is None:
        raise NotMeasurable(f"no text can be put to the model: {model.tokenizer_note}")
    if model.context is not None and model.context < settings.window:
        raise NotMeasurable(
            f"a window of {settings.window} tokens does not fit into the model's context of "
            f"{model.context}; a smaller 'window' gives numbers of its own"
        )
    corpus = settings.read()
    if settings.text_sha256 not in (None, corpus.sha256):
        raise NotMeasurable(
            f"{corpus.source} is not the text that the suite names: its SHA-256 is "
            f"{corpus.sha256}, not {settings.text_sha256}"
        )
    chosen = choose_documents(
        model,
        settings.arrange(corpus.documents, settings.seed),
        settings.window,
        settings.documents,
        0 if settings.heads is None else HELD_OUT * settings.window,
    )
    if not chosen.documents:
        raise NotMeasurable(
            f"no document of {corpus.source} has {settings.window} tokens; a smaller 'window' "
            "gives numbers of its own"
        )
    return corpus, chosen


def _summarize(result: Measurement, settings: Settings, clean: PositionLosses) -> None:
    from icl_bench.measures import statistics as st

    confidence = settings.confidence
    result.metrics = {
        "icl_score_windowed": st.mean_metric(clean.icl_score_windowed, confidence=confidence),
        "text_loss": st.mean_metric(clean.mean, confidence=confidence),
        "documents": st.exact_metric(len(result.tables["documents"])),
    }
    if clean.icl_score is None:
        why = f"a window of {settings.window} tokens has no 500th token"
        result.unmeasured["icl_score"] = why
    else:
        result.metrics["icl_score"] = st.mean_metric(clean.icl_score, confidence=confidence)


def _describe(settings: Settings, corpus: Corpus) -> dict[str, Any]:
    described = settings.model_dump(by_alias=True, exclude_none=True)
    described["text_sha256"] = corpus.sha256
    if settings.text is not None:
        described["text"] = Path(settings.text).name
    return described


def _require_known(model: Model, input_ids: Tensor, corpus: Corpus) -> None:
    unknown = getattr(model.tokenizer, "unk_token_id", None)
    if unknown is None:
        return
    share = float((input_ids == unknown).double().mean())
    if share > UNKNOWN:
        raise NotMeasurable(
            f"the tokenizer does not know {share:.0%} of the words of {corpus.source}"
        )


PROBE = Probe("icl_score", Settings, METRICS, measure, report=report_icl_score)
