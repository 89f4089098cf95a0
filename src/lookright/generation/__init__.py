"""What generate.py runs: compose, answer, select."""
