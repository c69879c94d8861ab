"""The training loop that the language model and the step scorer share."""

import os
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from transformers import LlamaForCausalLM
from transformers.utils import logging

from configs.processes import end_with
from reasoning.training.optim import (
    adamw,
    check_finite,
    learning_rate,
    load_checkpoint,
    save_checkpoint,
    update,
)


class Job(NamedTuple):
    """What every process of a run needs to know.

    Fields:
        out: folder of ``checkpoint.pt`` and of the model.
        settings: values that a checkpoint must share for a run to resume from it; ``steps``,
            ``lr`` and ``rows`` (in a batch, over all processes) are read by the loop.
        minutes: wall-clock budget or None.
        compile: use ``torch.compile``.
        save_every: seconds between checkpoints.
        log_every: steps between progress lines.
    """

    out: Path
    settings: dict[str, Any]
    minutes: float | None
    compile: bool
    save_every: float
    log_every: int


def job_of(given: dict[str, Any]) -> Job:
    """The job that the keywords of a training command describe; makes its folder.

    Args:
        given: all keywords of the command, ``out``, ``steps`` and ``workers`` among them.

    Raises:
        ValueError: a number that is too small.
    """
    _check_settings(given)
    out = Path(given["out"])
    out.mkdir(parents=True, exist_ok=True)
    own = ("minutes", "compile", "save_every", "log_every")
    settings = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in given.items()
        if name not in ("out", "workers", *own)
    }
    return Job(out, settings, **{name: given[name] for name in own})


def _check_settings(given: dict[str, Any]) -> None:
    counts = ["steps", "workers", "samples", "rows", "length", "layers", "inner", "log_every"]
    if not given.get("gsm8k"):  # whose problems do alone, too
        counts.append("num_problems")
    for name in counts:
        if given.get(name, 1) < 1:
            raise ValueError(f"{name} must be at least 1, not {given[name]}")
    for name in ("lr", "minutes"):
        value = given.get(name)
        if value is not None and value <= 0:
            raise ValueError(f"{name} must be above 0, not {value}")


def load_lm(folder: str | Path) -> LlamaForCausalLM:
    """A language model in float32, to be trained on."""
    logging.disable_progress_bar()
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)


class Team(NamedTuple):
    """This process among the ``size`` processes that share each batch."""

    rank: int
    size: int

    @property
    def first(self) -> bool:
        """Whether this process prints and saves."""
        return self.rank == 0

    def average(self, values: torch.Tensor) -> torch.Tensor:
        """Mean of a flat tensor over the processes, in place."""
        if self.size > 1:
            dist.all_reduce(values)
            values /= self.size
        return values


def launch(worker: Callable[[int, Job, Team], None], job: Job, workers: int) -> None:
    """Run ``worker(rank, job, team)`` here, or in ``workers`` processes of one thread each."""
    if workers == 1:
        worker(0, job, Team(0, 1))
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(_start, args=(worker, job, workers, port, os.getpid()), nprocs=workers)


def _start(
    rank: int,
    worker: Callable[[int, Job, Team], None],
    job: Job,
    workers: int,
    port: int,
    parent: int,
) -> None:
    end_with(parent)
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=workers)
    worker(rank, job, Team(rank, workers))
    dist.destroy_process_group()


class Run:
    """One training run: schedule, progress line, checkpoints, resuming.

    Args:
        model: trained in place.
        job: settings (see :class:`Job`).
        team: the processes that share each batch.
    """

    def __init__(self, model: LlamaForCausalLM, job: Job, team: Team) -> None:
        self.model, self.job, self.team = model, job, team
        self.optimizer = adamw(model)
        self.step, self.seconds, self.warm = 0, 0.0, False
        state = load_checkpoint(job.out / "checkpoint.pt", job.settings)
        if state is not None:
            self.step, self.seconds = state["step"], state["seconds"]
            model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            torch.set_rng_state(state["rng"])
            if team.first:
                print(f"resumed at step {self.step}", flush=True)

    def save(self) -> None:
        """Checkpoint for resuming, and the model in the hub's format beside it."""
        state = {
            "settings": self.job.settings,
            "step": self.step,
            "seconds": self.seconds,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rng": torch.get_rng_state(),
        }
        save_checkpoint(self.job.out / "checkpoint.pt", state)
        self.model.save_pretrained(self.job.out)

    def fraction(self) -> float:
        """Share of the training done, in [0, 1]."""
        minutes = self.job.minutes
        timed = 0.0 if minutes is None else self.seconds / (60 * minutes)
        return min(1.0, max(self.step / self.job.settings["steps"], timed))

    def fit(
        self,
        epoch_rows: Callable[[int], Sequence[Any]],
        batch_loss: Callable[[LlamaForCausalLM, Sequence[Any]], torch.Tensor],
    ) -> None:
        """Train until the budget is spent, then save.

        Args:
            epoch_rows: ``epoch -> rows``: the same for the same epoch, always as many.
            batch_loss: ``(model, rows) -> scalar loss``.
        """
        self.model.train()
        rows, every = self.job.settings["rows"], self.job.log_every
        order, epoch = epoch_rows(0), 0
        losses: list[float] = []
        saved = logged = time.monotonic()
        while self.fraction() < 1:
            begun = time.monotonic()
            now, at = divmod(self.step, max(1, len(order) // rows))
            if now != epoch:
                order, epoch = epoch_rows(now), now
            chunk = order[at * rows : (at + 1) * rows][self.team.rank :: self.team.size]
            losses.append(self.advance(batch_loss(self.model, chunk), begun))
            if self.team.first and self.step % every == 0:
                self.report(losses[-every:], time.monotonic() - logged)
                logged = time.monotonic()
            if self.team.first and time.monotonic() - saved > self.job.save_every:
                self.save()
                saved = time.monotonic()
        if self.team.first:
            self.save()

    def advance(self, loss: torch.Tensor, begun: float) -> float:
        """One update from this process's loss; returns the loss averaged over the processes.

        Raises:
            FloatingPointError: the loss is NaN or infinite.
        """
        loss.backward()
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        extra = torch.tensor([float(loss.detach()), time.monotonic() - begun])
        flat = self.team.average(torch.cat([*(g.flatten() for g in gradients), extra]))
        if self.team.size > 1:
            parts = flat[:-2].split([g.numel() for g in gradients])
            for gradient, part in zip(gradients, parts, strict=True):
                gradient.copy_(part.view_as(gradient))
        mean = float(flat[-2])
        check_finite(mean, self.step + 1)
        update(self.optimizer, learning_rate(self.fraction(), self.job.settings["lr"]))
        self.step += 1
        # The processes must agree on the elapsed time: they read the schedule from it.
        # The first step of a process is mostly compilation, which is not training.
        self.seconds += float(flat[-1]) if self.warm else 0.0
        self.warm = True
        return mean

    def report(self, losses: Sequence[float], seconds: float) -> None:
        """One progress line."""
        rate, lr = len(losses) / seconds, self.job.settings["lr"]
        print(
            f"step {self.step}/{self.job.settings['steps']} ({100 * self.fraction():.0f}%) "
            f"loss {sum(losses) / len(losses):.4f} lr {learning_rate(self.fraction(), lr):.2e} "
            f"{rate:.2f} steps/s {self.seconds / 60:.1f} min",
            flush=True,
        )
