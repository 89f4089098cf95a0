"""Which of several processes this is, and what the first says for all: as Lightning has it, without its import."""

import os

from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_only

__all__ = ["rank_zero_info", "rank_zero_only"]

_RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")
"""As Lightning reads it on its import (`lightning.fabric.utilities.rank_zero`); its strategies then set it anew."""

# Lightning keeps it on the function
vars(rank_zero_only).setdefault("rank", int(next((os.environ[name] for name in _RANKS if name in os.environ), 0)))
