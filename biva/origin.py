"""Where a result comes from: the commit of the code, the versions of what computed it, and the processor."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

from biva.environment import RECORDED, named_like
from biva.errors import some_of

NO_CODE = [f":(exclude,top,glob)**/{folder}/**" for folder in ("results/published", "docs", "tests")]
"""For git: what a work tree has beside that which makes its results."""


@cache
def commit() -> str:
    """Git commit of the code that runs, with `-dirty`, and a warning, when tracked files differed from it at the first
    call. Published results, which `biva publish` changes, documents and tests are no code.

    Where git does not know this code, as where a copy of it was carried, it is what BIVA_COMMIT says, or else the
    commit that pip installed it from, or else `unknown`, with a warning that says why. A repository that holds a copy
    without tracking it does not count, nor does one that git's variables name; those of its configuration, such as of
    `safe.directory`, do.
    """
    code = Path(__file__)
    variables = {
        name: value for name, value in os.environ.items() if name.startswith("GIT_CONFIG") or name[:4] != "GIT_"
    }

    def git(*arguments: str) -> str:
        call = ["git", "-C", str(code.parent), *arguments]
        done = subprocess.run(call, env=variables, capture_output=True, text=True, errors="replace", check=True)
        return done.stdout.strip()

    try:
        if git("ls-files", code.name):
            changed = git("status", "--porcelain", "--untracked-files=no", "--", ":/", *NO_CODE).splitlines()
            if changed:
                print(
                    "warning: records will say that they were made by code that is in no commit, and `biva publish` "
                    f"refuses such: {some_of([line.split(maxsplit=1)[1] for line in changed], 3)}. Commit first.",
                    file=sys.stderr,
                )
            return git("rev-parse", "HEAD") + ("-dirty" if changed else "")
        reason = "the repository around it does not track it"
    except subprocess.CalledProcessError as error:
        reason = " ".join(error.stderr.split())
    except OSError as error:
        reason = f"{error.strerror}: git"
    if told := os.environ.get("BIVA_COMMIT"):
        return told
    for note in code.resolve().parents[1].glob("biva-*.dist-info/direct_url.json"):  # pip's, beside the package
        if installed := json.loads(note.read_text(encoding="utf-8")).get("vcs_info"):
            return str(installed["commit_id"])
    print(
        f"warning: records will say that they were made by an unknown commit. git does not tell that of {code.parent}: "
        f"{reason}. Do what git advises, or set BIVA_COMMIT to the commit.",
        file=sys.stderr,
    )
    return "unknown"


def made_by(device: str) -> dict[str, Any]:
    """What every record says of the code and the machine that made it; `device` is `cpu`, or a GPU, in words."""
    return {"commit": commit(), "device": device, "hardware": _hardware(device)}


def _hardware(device: str) -> dict[str, Any]:
    """On what the last digits of a number depend beside the device: another processor rounds otherwise."""
    import torch

    if device.endswith("cpu"):
        found = re.search(r"MKL-DNN v([\d.]+)", torch.__config__.show())
        convolutions = f"oneDNN {found[1]}" if found and torch.backends.mkldnn.is_available() else "torch"
    else:
        convolutions = f"cuDNN {torch.backends.cudnn.version()}"
    return {
        "processor": processor(),
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
        "convolutions": convolutions,
        "variables": {name: os.environ[name] for name in sorted(named_like(RECORDED))},
    }


def processor() -> str:
    """The processor's name, where Linux tells it, or else its architecture."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text(encoding="utf-8").splitlines() if information.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def versions() -> dict[str, str]:
    """What the numbers were computed with."""
    import numpy
    import torch

    import biva

    return {
        "biva": biva.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "platform": platform.platform(),
    }
