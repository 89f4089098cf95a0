"""Weights that other programs load: merged, or the adapter alone, with a card; checked before they are there."""
