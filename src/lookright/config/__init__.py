"""Schemas, checks and the entry point that turns a user's mistake into a message."""
