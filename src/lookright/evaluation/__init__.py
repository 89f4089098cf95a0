"""Answers to multi-image questions and what they are worth."""
