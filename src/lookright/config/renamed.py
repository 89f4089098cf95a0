"""Keys that configs once had, and what they are called now."""

from collections.abc import Collection

RENAMED = {
    "optimization.learning_rate": "optimizer.lr",
    "optimization.projector_learning_rate": "projector_lr",
    "optimization.weight_decay": "optimizer.weight_decay",
    "optimization.betas": "optimizer.betas",
    "optimization.warmup": "schedule.warmup",
    "optimization.schedule": "the group schedule (schedule=cosine)",
}


def new_names(path: str, known: Collection[str]) -> str | None:
    """What to say of a key that was renamed; None where there is none of it, or where `known` root keys hold it.

    `path` is a key, or a group that once was.
    """
    if path.partition(".")[0] in known:
        return None
    if path in RENAMED:
        return f"{path} is {RENAMED[path]} now"
    beside = [old for old in RENAMED if old.partition(".")[0] == path.partition(".")[0]]
    told = ", ".join(f"{old} is {RENAMED[old]} now" for old in beside)
    return f"{path} does not exist; {told}" if beside else None
