"""torchvision, also beside a torch without CUDA.

torchvision's wheels are built against a CUDA build of torch. Beside another build their compiled operators cannot be
loaded, and the import fails at the first Python function that is registered for one of them. Declaring those
operators, which nothing here calls, lets the rest work. Where torchvision loads normally nothing is changed.
"""

from __future__ import annotations

import re
import sys
from typing import Any

import torch

_MISSING = re.compile(r"operator torchvision::(\w+) does not exist")
_declared: list[torch.library.Library] = []


def torchvision_utils() -> Any:
    """The module `torchvision.utils`."""
    while True:
        try:
            import torchvision.utils
        except RuntimeError as error:
            missing = _MISSING.search(str(error))
            if missing is None:
                raise
            library = torch.library.Library("torchvision", "FRAGMENT")
            library.define(f"{missing[1]}(Tensor unused) -> Tensor")
            _declared.append(library)  # a library that is collected takes its operators with it
            for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
                del sys.modules[name]
        else:
            return torchvision.utils
