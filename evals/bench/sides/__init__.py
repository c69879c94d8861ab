"""One module per side, each a process that serves `prepare`."""
