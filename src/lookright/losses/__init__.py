"""Loss terms, one value per pair each, and their weighted sum."""
