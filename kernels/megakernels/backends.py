"""Which backend runs an operation: the one that was named, or the best that can run where the tensors are."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec

from torch import Tensor

from megakernels.errors import BackendUnavailableError, KernelShapeError


def interpreted() -> bool:
    """Whether Triton interprets its kernels, on CPU tensors and slowly."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def choose(name: str, known: Sequence[str], at: Tensor) -> str:
    """The backend to run on the device of `at`. "auto": Triton on a GPU that has it, else what runs anywhere.

    Raises KernelShapeError for a name that is not `known`, BackendUnavailableError for one that cannot run here.
    """
    if name not in known:
        raise KernelShapeError(f"a backend is one of {', '.join(known)}, got {name!r}; choose one of them")
    triton = find_spec("triton") is not None
    if name == "auto":
        if at.is_cuda and triton:
            return "triton"
        return "chunked" if "chunked" in known else "reference"
    if name == "triton" and not triton:
        raise BackendUnavailableError(
            "the backend 'triton' needs the package triton; install it or take 'auto'"
        )
    if name == "triton" and not (at.is_cuda or interpreted()):
        raise BackendUnavailableError(
            f"the backend 'triton' runs on GPUs, the tensors are on {at.device}; move them, take 'auto', or set "
            "TRITON_INTERPRET=1 before anything is imported to interpret it, slowly"
        )
    if name == "flex" and not at.is_cuda:
        raise BackendUnavailableError(
            f"the backend 'flex' is compiled for GPUs here, the tensors are on {at.device}; take 'auto'"
        )
    return name
