"""A card in name only: tensors that say they lie on `the card` and are computed on the CPU.

    with card():
        plan(on_card(model), on_card(state), rng=generator(0, CARD))

Inside, tensors of two devices do not mix, by PyTorch's own rules, generators draw on their own
device only, and what lies on the card has no NumPy array. Numbers are the CPU's, so that what is
computed on the card is what the CPU would give, to the last bit. `asked` counts how often the
card was waited for: a tensor copied back, a number or a truth value read.

Not here: kernels, streams, compilation.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.optim import optimizer
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import (
    TorchDispatchMode,
    _disable_current_modes,
    return_and_correct_aliasing,
)
from torch.utils._pytree import tree_flatten, tree_map_only

aten = torch.ops.aten
_save = torch.save
CARD, HOST = torch.device("lazy", 0), torch.device("cpu")
READS = (
    aten._local_scalar_dense.default,
    aten.item.default,
    aten.nonzero.default,
    aten.equal.default,
)
INDEXED = (aten.index.Tensor, aten.index_put_.default, aten.index_put.default)
Generator = torch.Generator


class OnCard(Tensor):
    """A tensor of the card, whose numbers lie in `host`."""

    host: Tensor

    @staticmethod
    def __new__(cls, host: Tensor) -> OnCard:
        made = Tensor._make_wrapper_subclass(
            cls,
            host.shape,
            strides=host.stride(),
            storage_offset=host.storage_offset(),
            dtype=host.dtype,
            device=CARD,
            requires_grad=host.requires_grad,
        )
        made.host = host
        return made

    def __repr__(self) -> str:
        return f"OnCard({self.host!r})"

    @property
    def data(self) -> Tensor:  # type: ignore[override]
        return self.detach()

    @data.setter
    def data(self, value: OnCard) -> None:
        Tensor.data.__set__(self, value)  # type: ignore[attr-defined]
        self.host = value.host

    def data_ptr(self) -> int:
        return self.host.data_ptr()

    def new_tensor(self, data: Any, **options: Any) -> Tensor:
        return torch.tensor(data, **{"dtype": self.dtype, "device": CARD} | options)

    def tolist(self) -> Any:
        return self.to(HOST).tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} on the card outside of card()")


class CardGenerator(Generator):
    """A generator that says where it lies."""

    def __new__(cls, device: Any = "cpu") -> CardGenerator:
        return super().__new__(cls)

    def __init__(self, device: Any = "cpu") -> None:
        self._place = CARD if torch.device(device).type == CARD.type else HOST

    def clone_state(self) -> CardGenerator:
        copied = CardGenerator(self._place)
        copied.set_state(self.get_state())
        return copied

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self._place


class Card(TorchDispatchMode):
    """Computes on the CPU what lies on the card, and refuses what a card would refuse."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        leaves = tree_flatten((args, kwargs))[0]
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        named = [leaf.type == CARD.type for leaf in leaves if isinstance(leaf, torch.device)]
        there = any(named) if named else self._place(func, args, tensors)
        down = tree_map_only(OnCard, lambda t: t.host, (args, kwargs))
        down = tree_map_only(torch.device, lambda d: HOST if d.type == CARD.type else d, down)
        down[1].pop("pin_memory", None)
        made = func(*down[0], **down[1])
        held = any(isinstance(t, OnCard) for t in tensors)
        self.asked += held and (func in READS or not there)
        if not there:
            return made
        made = tree_map_only(Tensor, OnCard, made)
        return return_and_correct_aliasing(func, args, kwargs, made) if held else made

    def _place(self, func: Any, args: Any, tensors: list[Tensor]) -> bool:
        """Whether the result lies on the card. Raises RuntimeError where devices are mixed."""
        if func is aten.copy_.default:
            return isinstance(args[0], OnCard)
        if func in INDEXED:  # positions may lie on the CPU
            indices = args[1]
            tensors = [t for t in tensors if all(t is not i for i in indices)]
            if not isinstance(args[0], OnCard) and any(isinstance(i, OnCard) for i in indices):
                raise RuntimeError(f"{func}: a tensor of the CPU indexed by one of the card")
        sized = {isinstance(t, OnCard) for t in tensors if t.dim()}
        if len(sized) == 2 or (sized == {False} and any(isinstance(t, OnCard) for t in tensors)):
            raise RuntimeError(f"{func}: tensors on the card and on the CPU are mixed")
        if sized:
            return sized.pop()
        return any(isinstance(t, OnCard) for t in tensors)


class Calls(TorchFunctionMode):
    """What only a call shows: the generator it was given, and data that are made into a tensor."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None:
            device = kwargs.pop("device")
            return func(*args, **kwargs).to(device)
        if func is Tensor.__getitem__ and isinstance(args[1], tuple):  # positions in lists
            places = (torch.tensor(i).to(CARD) if isinstance(i, list) else i for i in args[1])
            args = (args[0], tuple(places) if isinstance(args[0], OnCard) else args[1])
        made = func(*args, **kwargs)
        rng = kwargs.get("generator")
        if rng is not None and rng.device.type != made.device.type:
            raise RuntimeError(f"{func}: drawn on {made.device} by a generator on {rng.device}")
        return made


@contextmanager
def card() -> Iterator[Card]:
    """A machine with one card."""
    with (
        Calls(),
        Card() as mode,
        patch.object(torch, "Generator", CardGenerator),
        patch.object(optimizer, "_get_fused_kernels_supported_devices", lambda: [CARD.type]),
        patch.object(torch, "save", lambda value, file: _save(on_host(value), file)),
        patch.object(Tensor, "pin_memory", lambda self, *_: self),
    ):
        yield mode


def outside(function: Callable[..., Any]) -> Callable[..., Any]:
    """That function, computing as without a card."""

    def called(*args: Any, **options: Any) -> Any:
        with _disable_current_modes():
            return function(*args, **options)

    return called


def on_card(value: Any) -> Any:
    """A copy of `value` with every tensor in it, however deep, on the card."""

    def tensor(self: Tensor, memo: dict[int, Any]) -> Tensor:
        return memo.setdefault(id(self), self.detach().clone().to(CARD))

    def parameter(self: nn.Parameter, memo: dict[int, Any]) -> nn.Parameter:
        there = self.detach().clone().to(CARD)
        return memo.setdefault(id(self), nn.Parameter(there, self.requires_grad))

    with (
        patch.object(Tensor, "__deepcopy__", tensor),
        patch.object(nn.Parameter, "__deepcopy__", parameter),
    ):
        return copy.deepcopy(value)


def on_host(value: Any) -> Any:
    """`value`, a nest of tuples, lists and dictionaries, with every tensor on the CPU."""
    return tree_map_only(Tensor, lambda t: t.detach().to(HOST), value)
