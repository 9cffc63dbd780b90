"""Where to compute, and with which arithmetic."""

from __future__ import annotations

import ctypes
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from itertools import count
from pathlib import Path
from typing import cast, get_args

import torch
from filelock import FileLock, Timeout

from biva.config import Precision
from biva.errors import UserError

CLAIMS = Path(tempfile.gettempdir()) / f"biva-gpus-{os.getuid()}"
"""Where the processes of this machine that compute on GPUs of their own have their locks."""


def choose_device(device: str) -> torch.device:
    """`cpu`, `cuda`, or `auto`: a CUDA device where there is one; of several, one that no other run computes on.

    Raises:
        UserError: `cuda` is asked for and not there.
    """
    if device == "cpu":
        return torch.device("cpu")
    _one_gpu()
    if torch.cuda.is_available():
        return torch.device("cuda")
    if device == "cuda":
        raise UserError("This run asks for `device: cuda`, but torch finds no CUDA device. Use `auto` or `cpu`.")
    return torch.device("cpu")


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Options of glibc's mallopt, as its malloc.h has them: bytes above which freed memory goes back to the kernel."""


def use_threads(threads: int) -> None:
    """Compute with so many CPU threads, and have freed memory kept for the next tensors.

    By itself glibc gives large blocks back at once, and the kernel clears every page of the next ones. Measured with
    BIVA `small_28x28` on an AMD EPYC: evaluation is 1.2 times as fast, eager training 1.05 times; numbers and the
    largest memory stay the same. Other C libraries are left as they are.
    """
    torch.set_num_threads(threads)
    library = ctypes.CDLL(None)
    for option in (_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD) if hasattr(library, "mallopt") else ():
        library.mallopt(option, 2**30)


def device_name(device: torch.device) -> str:
    """`cpu`, or the name of the GPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


@cache
def _one_gpu() -> FileLock | None:
    """Leave this process one of several visible GPUs, unless torchrun did. Cached, since the claim must live."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = [str(index) for index in range(torch.cuda.device_count())] if visible is None else visible.split(",")
    return claim(gpus) if len(gpus) > 1 and "LOCAL_RANK" not in os.environ else None


def claim(gpus: list[str]) -> FileLock:
    """Choose the first of the GPUs that the fewest other processes have chosen, and leave CUDA only this one.

    Must be called before CUDA starts, with what `CUDA_VISIBLE_DEVICES` may hold, one by one; at least one. The claim is
    a locked file, so it ends with the process, however that ends, or when the object that is returned is lost.
    """
    CLAIMS.mkdir(parents=True, exist_ok=True)
    for others in count():
        for gpu in gpus:
            lock = FileLock(CLAIMS / f"{gpu}-{others}.lock")
            try:
                lock.acquire(blocking=False)
            except Timeout:
                continue
            os.environ["CUDA_VISIBLE_DEVICES"] = gpu
            return lock
    raise AssertionError("there is always one more place on a GPU")


def find_precision(name: str) -> Precision:
    """The precision with this name; UserError, with all names, if there is none."""
    if name not in get_args(Precision):
        raise UserError(f"There is no precision {name!r}. Known: {', '.join(get_args(Precision))}.")
    return cast(Precision, name)


_NO_MEMORY = ("allocate memory", "size calculation overflowed")
"""What torch says, in errors of no class of their own, where the memory of a CPU does not suffice."""


@contextmanager
def enough_memory(remedy: str) -> Iterator[None]:
    """Report in words, with what to do, that the memory of a GPU or of this machine does not suffice.

    Raises:
        UserError: it does not.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        known = isinstance(error, MemoryError | torch.OutOfMemoryError) or any(w in str(error) for w in _NO_MEMORY)
        if not known:
            raise
        said = f"{error}".partition("\n")[0] or type(error).__name__
        raise UserError(f"The memory does not suffice ({said}). {remedy}") from None


@contextmanager
def computing_in(precision: Precision, device: torch.device) -> Iterator[None]:
    """Compute convolutions and matrix products in a precision: a forward pass, or a whole training step.

    fp32: full float32, also where torch would take TF32 by itself (CUDA convolutions). tf32: float32 numbers, of which
    a GPU multiplies the first 10 bits of the mantissa. bf16: torch's autocast. Weights, optimiser, latents, likelihood
    and KL stay float32 in all of them: the models return float32 from every latent head and from the output layer.

    Raises:
        UserError: tf32 without a GPU.
    """
    if precision == "tf32" and device.type != "cuda":
        raise UserError(f"Precision tf32 is a mode of NVIDIA GPUs, but the device is {device.type}. Use fp32 or bf16.")
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    products.allow_tf32 = convolutions.allow_tf32 = precision == "tf32"
    try:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            yield
    finally:
        products.allow_tf32, convolutions.allow_tf32 = before
