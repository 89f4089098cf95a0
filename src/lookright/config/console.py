"""What libraries say on the console and a user can do nothing about is left out; all else stays."""

import logging
import sys
import warnings

WARNINGS = (
    # frozen parts are kept in evaluation mode on purpose
    r"Found \d+ module\(s\) in eval mode at the start of training",
    # a resumed run writes on into its own folder
    r"Checkpoint directory .* exists and is not empty",
    # our own limit is lower, and an error
    r"Image size \(\d+ pixels\) exceeds limit",
    # jobs of one process that a launcher of ours started need none
    r"The `srun` command is available on your system",
    # calls inside Lightning and transformers
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    r"`is_gradient_checkpointing` is deprecated",
)
INFOS = ("litlogger", "`Trainer(limit_val_batches=", "TPU available")


def quiet() -> None:
    """Call once, before anything runs."""
    if "lightning" not in sys.modules:
        # as Lightning does itself where it is imported first; after Hydra has set up logging it would tell all twice
        for name in ("lightning.pytorch", "lightning.fabric", "lightning_utilities"):
            logging.getLogger(name).addHandler(logging.StreamHandler())
            logging.getLogger(name).propagate = False
    for pattern in WARNINGS:
        warnings.filterwarnings("ignore", message=pattern)
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.rank_zero"):
        logging.getLogger(name).addFilter(_worth_telling)


def _worth_telling(record: logging.LogRecord) -> bool:
    message = record.getMessage()
    return not any(text in message for text in INFOS)
