"""python -m lookright.export run=RUN_DIR output=DIR [key=value ...]: merged weights, or an adapter, for others."""

from lookright.commands.cli import start


def main() -> None:
    """Export as the command line says."""
    start("export", module="lookright.export.command")


if __name__ == "__main__":
    main()
