"""Several processes on a machine with several GPUs: each computes on one of its own, as long as there are enough."""

from __future__ import annotations

import os
import tempfile
from itertools import count
from pathlib import Path

from filelock import FileLock, Timeout

CLAIMS = Path(tempfile.gettempdir()) / f"biva-gpus-{os.getuid()}"


def claim(gpus: list[str], folder: Path = CLAIMS) -> FileLock:
    """Choose the first of the GPUs that the fewest other processes have chosen, and leave CUDA only this one.

    Must be called before CUDA starts. The claim is a locked file, so it ends with the process, however that ends.

    Args:
        gpus: what `CUDA_VISIBLE_DEVICES` may hold, one by one; at least one.
        folder: where the processes of this machine that shall keep apart have their locks.

    Returns:
        The claim; it is lost when this object is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for others in count():
        for gpu in gpus:
            lock = FileLock(folder / f"{gpu}-{others}.lock")
            try:
                lock.acquire(blocking=False)
            except Timeout:
                continue
            os.environ["CUDA_VISIBLE_DEVICES"] = gpu
            return lock
    raise AssertionError("there is always one more place on a GPU")
