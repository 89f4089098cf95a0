"""A policy and its reference as one object."""
