"""What train.py runs."""
