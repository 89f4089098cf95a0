"""Preference terms, one a file, each a choice of `loss/kind` by its YAML in `conf/loss/kind/`."""
