"""Where metrics go besides metrics.csv: TensorBoard, Weights & Biases. Both watch a run.

    tensorboard --logdir runs/control

A run that was stopped knows its rows up to its last checkpoint and will do again what came after.
TensorBoard's files are therefore written anew from those rows when a run continues; no point is
there twice.
"""

from __future__ import annotations

import importlib
import json
import time
import uuid
from pathlib import Path
from typing import Any, Literal

from control import checkpoints
from control.types import Act, Evaluation, Row, RunInfo

STEP = "frames"  # the column that everything is drawn against
GROUPS = {
    "decisions": "progress",
    "updates": "progress",
    "episodes": "progress",
    "skipped": "progress",
    "seconds": "progress",
    "fps": "progress",
    "return": "return",
    "eval_return": "return",
    "eval_low": "return",
    "eval_high": "return",
}  # of the loop's columns; the agent's own are under "agent"


def scalars(row: Row) -> dict[str, float]:
    """A row's values by the names that they are shown under, `group/name`."""
    return {f"{GROUPS.get(name, 'agent')}/{name}": v for name, v in row.items() if name != STEP}


class TensorBoard:
    """Writes to `tensorboard` in the run's folder. Its wall times leave out when a run stood."""

    def __init__(self) -> None:
        self._writer: Any = None

    def start(self, run: RunInfo) -> None:
        """Write the rows so far, in place of what was there."""
        writer = importlib.import_module("torch.utils.tensorboard").SummaryWriter
        folder = run.folder / "tensorboard"
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        self._writer = writer(str(folder))
        self._began = time.time() - (run.rows[-1]["seconds"] if run.rows else 0.0)
        for row in run.rows:
            self._add(row)

    def on_row(self, row: Row) -> None:
        """Write a row."""
        self._add(row)
        self._writer.flush()

    def on_evaluation(self, evaluation: Evaluation, act: Act) -> None:
        """Its returns come with a row."""

    def close(self) -> None:
        """Write what is left."""
        if self._writer is not None:
            self._writer.close()

    def _add(self, row: Row) -> None:
        for name, value in scalars(row).items():
            self._writer.add_scalar(name, value, int(row[STEP]), self._began + row["seconds"])


class WandB:
    """Sends rows to Weights & Biases, or with `mode="offline"` keeps them for `wandb sync`.

    A run that continues goes on under the id in `wandb.json` in its folder. Online it sends only
    what its curve there does not have yet; offline each start writes the whole curve, so that the
    newest folder, `wandb/latest-run`, is the one to sync.
    """

    def __init__(
        self,
        mode: Literal["disabled", "offline", "online"] = "disabled",
        project: str = "mbrl-core",
        entity: str | None = None,
    ) -> None:
        self.mode = mode
        self.project = project
        self.entity = entity
        self._run: Any = None

    def start(self, run: RunInfo) -> None:
        """Open the run, and send the rows that it lacks."""
        if self.mode == "disabled":
            return
        wandb = importlib.import_module("wandb")
        self._run = wandb.init(
            project=self.project,
            entity=self.entity,
            id=_lasting_id(run.folder / "wandb.json"),
            name=run.folder.name,
            dir=str(run.folder),
            config=run.arguments,
            mode=self.mode,
            resume="allow",
        )
        for row in run.rows:
            self.on_row(row)

    def on_row(self, row: Row) -> None:
        """Send a row, unless the curve is further already."""
        if self._run is not None and row[STEP] >= self._run.step:
            self._run.log(scalars(row), step=int(row[STEP]))

    def on_evaluation(self, evaluation: Evaluation, act: Act) -> None:
        """Its returns come with a row."""

    def close(self) -> None:
        """Send what is left."""
        if self._run is not None:
            self._run.finish()


def _lasting_id(path: Path) -> str:
    """The id in a file, which is made where there is none."""
    if not path.exists():
        text = json.dumps({"id": uuid.uuid4().hex[:8]})
        checkpoints.write_atomically(path, lambda temporary: temporary.write_text(text))
    return json.loads(path.read_text())["id"]
