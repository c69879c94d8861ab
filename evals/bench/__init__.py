"""Speed: whole plans against their bare model calls, and against other libraries.

One measurement is a cell: a planner, its settings, and what it is compared with. Both sides of a
cell run in processes of their own (`sides/`), which are pinned to the same cores, build the same
model from the same numbers, and take turns. `cells.py` lists the cells, `command.py` runs them and
`document.py` writes docs/performance.md from their records.
"""
