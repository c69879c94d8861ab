"""`python -m evals.scaling`."""

import evals.scaling.command as command
from configs.cli import run

if __name__ == "__main__":
    raise SystemExit(run("scaling", command.scaling, command.__doc__ or ""))
