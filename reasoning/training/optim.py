"""Optimiser, schedule and checkpoints shared by the two trainers."""

import math
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn


def adamw(model: nn.Module, weight_decay: float = 0.1) -> torch.optim.AdamW:
    """AdamW whose decay touches matrices only (not the norms' vectors)."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.95), fused=True)


def update(optimizer: torch.optim.AdamW, lr: float, clip: float = 1.0) -> None:
    """One step at rate ``lr`` with the gradient's norm clipped at ``clip``; clears gradients."""
    for group in optimizer.param_groups:
        group["lr"] = lr
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    nn.utils.clip_grad_norm_(parameters, clip)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def learning_rate(fraction: float, peak: float, warmup: float = 0.03, floor: float = 0.02) -> float:
    """Linear warm-up, then a cosine from ``peak`` to ``floor * peak``.

    Args:
        fraction: share of the training done, in [0, 1].
        peak: highest rate.
        warmup: share of the training spent rising.
        floor: final rate relative to the peak.
    """
    if fraction < warmup:
        return peak * max(fraction, 1e-3) / warmup
    along = min(1.0, (fraction - warmup) / (1 - warmup))
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * along)))


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write atomically: a kill at any moment leaves the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    with open(temporary, "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def load_checkpoint(path: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """The saved state, or None when there is none.

    Raises:
        ValueError: the checkpoint was written with other settings.
    """
    if not path.is_file():
        return None
    state: dict[str, Any] = torch.load(path, weights_only=True)
    changed = sorted(k for k in settings if state["settings"].get(k) != settings[k])
    if changed:
        raise ValueError(
            f"{path} was written with other values of {', '.join(changed)}; "
            "give the same values to resume, or another folder to start afresh."
        )
    return state


def check_finite(loss: float, step: int) -> None:
    """Stop a run that has diverged.

    Raises:
        FloatingPointError: the loss is NaN or infinite.
    """
    if not math.isfinite(loss):
        raise FloatingPointError(
            f"The loss is {loss} at step {step}; lower the learning rate and start again "
            "from the last checkpoint."
        )
