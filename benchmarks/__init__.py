"""What the project measures: each script opens with its command, each side runs in a process of its own."""
