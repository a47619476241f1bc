"""Training of the reference models, from fixed seeds, with checkpoints on the way if wanted."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from icl_bench.errors import SettingsError
from icl_bench.reference import packing
from icl_bench.reference.architecture import IclReferenceAttention, IclReferenceForCausalLM
from icl_bench.reference.configuration import IclReferenceConfig
from icl_bench.reference.evaluation import evaluate
from icl_bench.reference.tokenizer import build_tokenizer
from icl_bench.reference.training_data import SequenceSource
from icl_bench.reference.words import WORDS

MODELS: dict[str, int] = {"induction-2l": 2, "control-1l": 1}
"""Name -> number of layers."""

STEPS = 2000
"""Steps of the shipped models."""

# Even in the logarithm at first, closer where the circuit forms.
SERIES: tuple[int, ...] = (
    *(1, 4, 16, 64, 128, 200, 300, 400, 450, 500, 550, 600, 650, 700, 750, 800, 850, 900),
    *(1000, 1100, 1250, 1500, 1750, 2000),
)
"""Steps whose checkpoints are kept."""

CONTEXT = 256
_LENGTHS = (64, 64, 128, 128, 256)
_TOKENS_PER_STEP = 4096
_RATE, _WARM_UP, _COOL_DOWN = 3e-3, 50, 0.2
_WAVES, _WAVE_RATIO, _WAVE_SIZE = 8, 0.72, 0.6
_POSITION_RATE = 0.02

_HEAD_RATES = 0.6
"""Each head learns this much slower than the next faster one. Without it all heads of a layer
become the same induction head by halves; with it two or three carry the circuit and the others
stay what they are, so that a layer has heads of both kinds to compare."""

Progress = Callable[[str], None]
StepCallback = Callable[[int, IclReferenceForCausalLM, float], None]


def train(
    layers: int,
    seed: int = 0,
    steps: int = STEPS,
    progress: Progress | None = None,
    on_step: StepCallback | None = None,
) -> IclReferenceForCausalLM:
    """Return a freshly trained model; on one machine the same arguments give the same weights.

    Args:
        layers: number of attention layers.
        seed: seed of the weights and of the sequences.
        steps: optimizer steps.
        progress: called with a line of text every 50 steps.
        on_step: called after each step with its number from 1, the model and the step's loss in
            nats; what it wants to keep of the model it has to copy.
    """
    model = _fresh_model(layers, seed)
    rates = _HeadRates(model, seed)
    positions = model.model.embed_positions.weight
    others = [p for p in model.parameters() if p is not positions]
    optimizer = torch.optim.AdamW(
        [
            {"params": others, "factor": 1.0, "weight_decay": 0.01},
            {"params": [positions], "factor": _POSITION_RATE, "weight_decay": 0.0},
        ],
        betas=(0.9, 0.98),
    )
    source = SequenceSource(seed)
    model.train()
    for step in range(1, steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = group["factor"] * _rate(step, steps)
        length = _LENGTHS[source.integer(0, len(_LENGTHS) - 1)]
        tokens = source.batch(_TOKENS_PER_STEP // length, length)
        logits = model(tokens).logits
        loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        with rates:
            optimizer.step()
        value = float(loss.detach())
        if progress is not None and (step % 50 == 0 or step == steps):
            progress(f"{layers}-layer model, step {step} of {steps}: loss {value:.3f}")
        if on_step is not None:
            on_step(step, model, value)
    return model.eval()


def train_reference(
    output_dir: Path | str,
    seed: int = 0,
    progress: Progress | None = None,
    steps: int = STEPS,
    save_series: bool = False,
) -> dict[str, Any]:
    """Train both reference models and save each, with the tokenizer, in a folder of its own.

    With `save_series` this folder gets the checkpoints of `SERIES` (and of the last step) as well:
    each as a model folder `step-N` with the losses so far in a `trainer_state.json`, so that the
    folder is a series for icl_bench, and all of them packed in `series.safetensors` and
    `series.json`, as they are shipped.

    Returns per model: `losses` (step -> nats, every 50 steps), `scores` as of `evaluate`,
    `parameters`, `seconds`, `folder`, and `checkpoints` (their steps) where they were kept.

    Args:
        output_dir: folder to write to; made if missing.
        seed: seed of the weights and of the sequences.
        progress: called with a line of text every 50 steps.
        steps: optimizer steps.
        save_series: keep checkpoints on the way.

    Raises:
        SettingsError: checkpoints of an earlier training are there and would be mixed with these.
    """
    folders = {name: Path(output_dir) / name for name in MODELS}
    if save_series:
        for folder in folders.values():
            _refuse_checkpoints(folder)
    return {
        name: _train_one(layers, folders[name], seed, progress, steps, save_series)
        for name, layers in MODELS.items()
    }


def _train_one(
    layers: int, folder: Path, seed: int, progress: Progress | None, steps: int, save_series: bool
) -> dict[str, Any]:
    """Train one model, save it, and return what `train_reference` says of it."""
    losses: dict[int, float] = {}
    kept: dict[int, Path] = {}

    def keep(step: int, model: IclReferenceForCausalLM, loss: float) -> None:
        losses[step] = loss
        if save_series and (step in SERIES or step == steps):
            kept[step] = folder / f"step-{step}"
            _save_checkpoint(model, losses, kept[step])

    started = time.monotonic()
    model = train(layers, seed, steps, progress, keep)
    seconds = time.monotonic() - started
    save(model, folder)
    summary: dict[str, Any] = {
        "folder": str(folder),
        "parameters": sum(p.numel() for p in model.parameters()),
        "seconds": round(seconds, 1),
        "scores": {key: round(value, 4) for key, value in evaluate(model).items()},
        "losses": {
            step: round(loss, 4) for step, loss in losses.items() if step % 50 == 0 or step == steps
        },
    }
    if save_series:
        packing.pack(kept, losses, folder)
        summary["checkpoints"] = list(kept)
    return summary


def _refuse_checkpoints(folder: Path) -> None:
    present = sorted(path.name for path in folder.glob("step-*"))
    if present:
        raise SettingsError(
            f"{str(folder)!r} holds checkpoints of an earlier training ({present[0]} and others); "
            "give another folder, or remove them"
        )


def _save_checkpoint(
    model: IclReferenceForCausalLM, losses: dict[int, float], folder: Path
) -> None:
    """Save a model in training, and its losses in the form of transformers' Trainer."""
    save(model, folder)
    history = [{"step": step, "loss": round(loss, 4)} for step, loss in losses.items()]
    state = {"global_step": len(losses), "log_history": history}
    (folder / "trainer_state.json").write_text(json.dumps(state) + "\n", encoding="utf-8")


def save(model: IclReferenceForCausalLM, folder: Path) -> None:
    """Write config, weights and tokenizer so that transformers can load the folder.

    Args:
        model: the model to save.
        folder: made if missing; files of these names in it are replaced.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    build_tokenizer(model.config.max_position_embeddings).save_pretrained(folder)
    # transformers 5 writes a class name that 4.57 does not know; it reads the old one as well.
    settings = folder / "tokenizer_config.json"
    content = json.loads(settings.read_text(encoding="utf-8"))
    content["tokenizer_class"] = "PreTrainedTokenizerFast"
    settings.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _fresh_model(layers: int, seed: int) -> IclReferenceForCausalLM:
    """Return a model with weights of a generator of its own."""
    config = IclReferenceConfig(
        vocab_size=len(WORDS),
        hidden_size=128,
        num_hidden_layers=layers,
        num_attention_heads=12,
        head_dim=16,
        max_position_embeddings=CONTEXT,
    )
    with torch.random.fork_rng(devices=[]):
        model = IclReferenceForCausalLM(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, weight in sorted(model.named_parameters()):
            if weight.dim() == 2:
                weight.normal_(0, config.initializer_range, generator=generator)
        model.model.embed_positions.weight.copy_(_waves(CONTEXT, config.hidden_size))
    return model


def _waves(positions: int, width: int) -> torch.Tensor:
    """Return sines and cosines of few frequencies, (positions, width), zero beyond them.

    A step back is one rotation, the same at every position. With few frequencies a head has no
    room to learn it for the first positions only, as it does with 64 of them.
    """
    frequency = 3.0 * _WAVE_RATIO ** torch.arange(_WAVES)
    angle = torch.arange(positions).unsqueeze(1) * frequency
    waves = torch.zeros(positions, width)
    waves[:, : 2 * _WAVES] = _WAVE_SIZE * torch.cat([angle.sin(), angle.cos()], dim=1)
    return waves


def _rate(step: int, steps: int) -> float:
    return _RATE * min(1.0, step / _WARM_UP, (steps - step + 1) / (_COOL_DOWN * steps))


class _HeadRates:
    """Around an optimizer's step: each head goes only its own share of the way.

    AdamW's steps do not depend on the size of gradients, so a head's learning rate can only be
    set on the step itself. Which head is fast is drawn from the seed.
    """

    def __init__(self, model: IclReferenceForCausalLM, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self._weights: list[tuple[torch.Tensor, torch.Tensor]] = []
        for layer in model.model.layers:
            attention: IclReferenceAttention = layer.self_attn
            order = torch.randperm(attention.num_heads, generator=generator)
            share = (_HEAD_RATES**order).repeat_interleave(attention.head_dim)
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj):
                self._weights.append((projection.weight, share.unsqueeze(1)))
            self._weights.append((attention.o_proj.weight, share.unsqueeze(0)))

    def __enter__(self) -> None:
        self._before = [weight.detach().clone() for weight, _ in self._weights]

    def __exit__(self, *_: object) -> None:
        with torch.no_grad():
            for (weight, share), before in zip(self._weights, self._before):
                weight.copy_(before + share * (weight - before))
