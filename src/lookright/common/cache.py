"""Where what was found out about files is kept over runs."""

import os
from pathlib import Path


def cache_folder() -> Path | None:
    """`LOOKRIGHT_CACHE`, else `lookright` in `XDG_CACHE_HOME` or `~/.cache`; None where the first is set empty."""
    own = os.environ.get("LOOKRIGHT_CACHE")
    if own is not None:
        return Path(own) if own else None
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lookright"
