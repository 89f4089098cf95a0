"""Preference terms, one a file; the file's name is its `loss.kind`."""
