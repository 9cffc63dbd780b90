"""torchvision, to be imported from here: `from biva.vision import torchvision`.

torchvision's wheels are compiled for one build of torch. Beside another, such as a CPU build, its compiled operators do
not load and its import fails, though nothing here uses them. Declaring the two that the import looks for is enough.
"""

import sys

import torch

try:
    import torchvision
except RuntimeError as error:
    if "torchvision::" not in str(error):
        raise
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    _operators = torch.library.Library("torchvision", "FRAGMENT")  # the declarations live as long as this object
    for name in ("nms", "qnms"):
        _operators.define(f"{name}(Tensor boxes, Tensor scores, float threshold) -> Tensor")
    import torchvision

__all__ = ["torchvision"]
