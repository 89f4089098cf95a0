"""The four commands; importing one readies its process, as importing the library does not."""

import logging
import os

from lookright.common.imports import postpone

# torch reads it at its first allocation: large tensors then lie aligned, in huge pages, and a step's peak memory on a
# CPU falls by a quarter at the same speed, since freed blocks fit the next layer's
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

# transformers and its hub read it when they are imported: no bar for each file of weights
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

# Lightning asks for two classes of torchmetrics, whose `__init__` imports all metrics there are, and scipy with them;
# `Metric` can only be imported through `checks`, which imports it itself
_HOMES = {
    "Metric": "torchmetrics.utilities.checks",
    "MetricCollection": "torchmetrics.collections",
    "__version__": "torchmetrics.__about__",
}
postpone("torchmetrics", _HOMES, _logger=logging.getLogger("torchmetrics"))
