"""Where networks lie and learn."""

from __future__ import annotations

import torch


def find_device(name: str) -> torch.device:
    """The device of that name, such as `cpu` or `cuda`; of `auto`, a GPU where there is one.

    Raises ValueError where PyTorch knows no such device, or cannot use it here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        why = str(error).splitlines()[0]
        raise ValueError(
            f"device {name!r} cannot be used here ({why}): take cpu, or cuda where there is a GPU"
        ) from error
    return device
