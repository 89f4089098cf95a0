"""What pyproject.toml cannot say: a wheel carries the config files of the checkout inside the package."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

CONFIG_FOLDERS = ("conf", "experiments")


class BuildWithConfigs(build_py):
    """Copies the folders beside the modules; an editable installation reads them where they are edited."""

    def run(self) -> None:
        """Build the package."""
        super().run()
        if self.editable_mode:
            return
        for name in CONFIG_FOLDERS:
            # what an earlier build left there may have been renamed since
            target = Path(self.build_lib) / "lookright" / name
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(name, target)


setup(cmdclass={"build_py": BuildWithConfigs})
