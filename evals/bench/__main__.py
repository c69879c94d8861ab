"""`python -m evals.bench`."""

import evals.bench.command as command
from configs.cli import run

raise SystemExit(run("bench", command.bench, command.__doc__ or ""))
