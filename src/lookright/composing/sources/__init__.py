"""Where single-image questions come from."""
