"""The whole method on the embedded data and a small backbone, in minutes on a CPU."""
