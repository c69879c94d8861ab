"""`python -m evals.experiments`."""

import evals.experiments.command as command
from configs.cli import run

raise SystemExit(run("experiments", command.perform, command.__doc__ or ""))
