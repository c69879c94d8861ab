"""Six verbs on rows: all that planners do to states and actions, but for cutting gradients.

Wrappers of models, which hold several states in one row, have two more: `pack` and `unpack`.
Planners that differentiate see the numbers of a state as one `vector`.

Rows are a tensor [R, ...], a list of R objects, or a tuple, NamedTuple or dict of rows. Indices are
int64 tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mbrl_core.types import Rows


def count(rows: Rows) -> int:
    """How many rows there are.

    Raises ValueError where the parts of a composite disagree, TypeError where `rows` is no rows.
    """
    if isinstance(rows, Tensor):
        shape = rows.shape
        if not shape:
            raise ValueError(
                "rows need a leading batch axis, but a tensor of no dimension was given"
            )
        return shape[0]
    if isinstance(rows, list):
        return len(rows)
    counts = {count(part) for part in _parts(rows)}
    if len(counts) != 1:
        raise ValueError(
            f"the parts of one batch must have equally many rows, not {sorted(counts)}"
        )
    return counts.pop()


def take(rows: Rows, index: Tensor) -> Rows:
    """The rows at `index` [n], in that order: n rows."""
    return _map(
        lambda leaf: (
            leaf.index_select(0, index.to(leaf.device))
            if isinstance(leaf, Tensor)
            else [leaf[i] for i in index.tolist()]
        ),
        rows,
    )


def repeat(rows: Rows, times: int) -> Rows:
    """Each row `times` times in succession: row r becomes rows r*times .. r*times + times-1."""
    if times == 1:
        return rows
    return _map(
        lambda leaf: (
            leaf.repeat_interleave(times, 0)
            if isinstance(leaf, Tensor)
            else [item for item in leaf for _ in range(times)]
        ),
        rows,
    )


def concat(parts: Sequence[Rows]) -> Rows:
    """The rows of all `parts`, one part after the other."""
    return _map(
        lambda *leaves: (
            torch.cat(leaves)
            if isinstance(leaves[0], Tensor)
            else [item for leaf in leaves for item in leaf]
        ),
        *parts,
    )


def where(mask: Tensor, yes: Rows, no: Rows) -> Rows:
    """Row r of `yes` where `mask` [R] is true, else row r of `no`."""

    def choose(a: Any, b: Any) -> Any:
        if isinstance(a, Tensor):
            return torch.where(mask.to(a.device).view(-1, *[1] * (a.dim() - 1)), a, b)
        return [x if m else y for m, x, y in zip(mask.tolist(), a, b, strict=True)]

    return _map(choose, yes, no)


def put(rows: Rows | None, index: Tensor, new: Rows, *, size: int) -> Rows:
    """Store `new` at `index` in a table of `size` rows, in place; `rows` None makes the table.

    Rows never stored are zeros in tensors and None in lists. Returns the table.
    """
    if rows is None:
        rows = _map(
            lambda leaf: (
                leaf.new_zeros((size, *leaf.shape[1:]))
                if isinstance(leaf, Tensor)
                else [None] * size
            ),
            new,
        )

    def store(table: Any, leaf: Any) -> Any:
        if isinstance(table, Tensor):
            table.index_copy_(0, index.to(table.device), leaf)
        else:
            for i, item in zip(index.tolist(), leaf, strict=True):
                table[i] = item
        return table

    return _map(store, rows, new)


def pack(rows: Rows, size: int) -> Rows:
    """R*size rows to R rows of `size` each: tensors [R, size, ...], lists of tuples."""
    return _map(
        lambda leaf: (
            leaf.unflatten(0, (-1, size))
            if isinstance(leaf, Tensor)
            else [tuple(leaf[i : i + size]) for i in range(0, len(leaf), size)]
        ),
        rows,
    )


def unpack(rows: Rows) -> Rows:
    """The rows that `pack` made into fewer; tensors are not copied where they need not be."""
    return _map(
        lambda leaf: (
            leaf.flatten(0, 1)
            if isinstance(leaf, Tensor)
            else [item for packed in leaf for item in packed]
        ),
        rows,
    )


def vector(rows: Rows) -> Tensor:
    """The tensors in floating point side by side, flattened: [R, S].

    Raises ValueError where there are none.
    """
    parts = [
        leaf.flatten(1) if leaf.dim() > 1 else leaf.unsqueeze(1)
        for leaf in leaves(rows)
        if _is_real(leaf)
    ]
    if not parts:
        raise ValueError("rows without a tensor in floating point are no vectors")
    return torch.cat(parts, 1)


def with_vector(rows: Rows, vector: Tensor) -> Rows:
    """The same rows with the numbers of `vector` [R, S], laid out as `vector` of them is."""
    begin = 0

    def exchange(leaf: Any) -> Any:
        nonlocal begin
        if not _is_real(leaf):
            return leaf
        end = begin + leaf[:1].numel()
        part, begin = vector[:, begin:end].view_as(leaf).to(leaf.dtype), end
        return part

    return _map(exchange, rows)


def detach(rows: Rows) -> Rows:
    """The same rows, cut off from any gradient."""
    return _map(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, rows)


def trackable(rows: Rows) -> Rows:
    """The same rows, those tensors copied that were made in inference mode, where no gradient can
    be had of them."""
    with torch.inference_mode(False), torch.no_grad():
        return _map(
            lambda leaf: leaf.clone() if isinstance(leaf, Tensor) and leaf.is_inference() else leaf,
            rows,
        )


def leaves(rows: Rows) -> list[Any]:
    """The tensors and lists that the rows consist of."""
    if isinstance(rows, (Tensor, list)):
        return [rows]
    return [leaf for part in _parts(rows) for leaf in leaves(part)]


def _is_real(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point()


def _parts(rows: Rows) -> list[Rows]:
    if isinstance(rows, dict):  # in the order of the names, whatever order they were written in
        return [rows[name] for name in sorted(rows, key=str)]
    if isinstance(rows, tuple):
        return list(rows)
    raise TypeError(
        f"rows must be a tensor, a list, or a tuple or dict of these, not {type(rows).__name__}"
    )


def _map(verb: Callable[..., Any], *rows: Rows) -> Rows:
    """Apply `verb` to the tensors and lists that the given rows consist of."""
    first = rows[0]
    if isinstance(first, (Tensor, list)):
        return verb(*rows)
    if isinstance(first, dict):
        return {
            name: _map(verb, *(other[name] for other in rows)) for name in sorted(first, key=str)
        }
    parts = [_map(verb, *leaves) for leaves in zip(*map(_parts, rows), strict=True)]
    return type(first)(*parts) if hasattr(first, "_fields") else tuple(parts)
