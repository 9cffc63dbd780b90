"""What of the user's shell must not decide results, records, or where files go.

The table of all environment variables that were decided on is in docs/reference.md.
"""

from __future__ import annotations

import getpass
import io
import os
import sys
import warnings
from fnmatch import fnmatchcase

from biva.errors import UserError

IGNORED = (
    "MPLBACKEND",  # a notebook's backend, which is not there outside of it
    *("PYTHONINSPECT", "PYTHONSAFEPATH", "PYTHONWARNINGS"),
    *("NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"),  # the precision is a setting,
    *("ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE"),
    *("OMP_DYNAMIC", "OMP_THREAD_LIMIT", "MKL_DYNAMIC"),  # so is the number of threads,
    *("TORCHDYNAMO_*", "TORCHINDUCTOR_*", "TORCH_COMPILE*"),  # and so is what is compiled
    *("MLFLOW_ENABLE_ASYNC_LOGGING", "MLFLOW_LOCK_MODEL_DEPENDENCIES", "MLFLOW_REGISTRY_URI"),
    *("MLFLOW_TRUNCATE_LONG_VALUES", "*MLFLOW_ACTIVE_MODEL_ID"),  # points would belong to that model too
)
"""Variables, as patterns, that no process of ours heeds."""

OBEYED = ("TORCHINDUCTOR_CACHE_DIR",)
"""Exceptions from `IGNORED`."""

RECORDED = (
    *("ATEN_*", "DNNL_*", "MKL_CBWR*", "MKL_ENABLE_*", "NPY_*", "ONEDNN_*", "OPENBLAS_CORETYPE", "TORCH_MKLDNN_*"),
    *("CUBLAS_*", "CUDNN_*", "TORCH_BLAS_*", "TORCH_CUDNN_*", "TORCH_LINALG_*"),
)
"""Variables, as patterns, that can make of a processor another one, which rounds otherwise: records name those set."""

LAUNCHED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Variables that torchrun gives to each of the processes that train a run together."""


def settle() -> None:
    """Take out of this process, and so out of those that it starts, what it must not heed, and say so.

    To be called before torch, matplotlib or MLflow is imported, which read their variables then.

    Raises:
        UserError: Python leaves docstrings out, of which captions are made.
    """
    if sys.flags.optimize > 1:
        raise UserError(
            "Python runs with PYTHONOPTIMIZE=2 or -OO, which leaves out the texts that captions of figures are made "
            "of. Unset PYTHONOPTIMIZE and run the same command again."
        )
    ignored = named_like(IGNORED) - {*OBEYED}
    if ignored:
        print(f"ignored (docs/reference.md says why): {', '.join(sorted(ignored))}", file=sys.stderr)
    left_over = set() if _launched() else os.environ.keys() & {*LAUNCHED[:3]}
    if left_over:
        print(
            f"warning: {', '.join(sorted(left_over))} ignored: {', '.join(LAUNCHED)} are not all there, or make no "
            "sense, so torchrun did not start this process, and it works alone",
            file=sys.stderr,
        )
    for name in ignored | left_over:
        del os.environ[name]
    os.environ["MATPLOTLIBRC"] = os.devnull  # instead of the user's settings, which may be broken
    if any(option.startswith("error") for option in sys.warnoptions):
        warnings.simplefilter("default")  # a library's remark ends no training
        for remark in (DeprecationWarning, PendingDeprecationWarning, ResourceWarning):
            warnings.simplefilter("ignore", remark)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # such as ± where PYTHONIOENCODING or the locale has none
    try:
        getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in containers, of whom Snakemake and torch want one
        os.environ["LOGNAME"] = f"{os.getuid()}"


def named_like(patterns: tuple[str, ...]) -> set[str]:
    """The variables that are set and match one of the patterns."""
    return {name for name in os.environ if any(fnmatchcase(name, pattern) for pattern in patterns)}


def _launched() -> bool:
    """Whether this is one of the processes that torchrun, or something like it, started together."""
    rank, local, count, *meeting_point = (os.environ.get(name, "") for name in LAUNCHED)
    return all(meeting_point) and all(map(str.isdecimal, (rank, local, count))) and int(rank) < int(count)
