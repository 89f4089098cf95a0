"""Single-image questions with their ground truth: where every prompt starts."""
