"""A batch as one padding-free row."""
