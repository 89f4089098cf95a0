"""What the project measures: each script opens with its command, each side runs in a process of its own."""

# what is measured runs as the commands do, with huge pages; before torch makes its first tensor
import lookright.commands  # noqa: F401
