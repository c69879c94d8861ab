"""One file per algorithm, each over the shared parts of `control`."""
