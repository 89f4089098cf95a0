"""How source images are shown together."""
