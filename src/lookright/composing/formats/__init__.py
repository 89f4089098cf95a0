"""From single-image rows to multi-image prompts whose geometry is known to the pixel."""
