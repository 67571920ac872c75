"""The native extension, and the files outside the packages that an installation needs; else see pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

# Folder or file of a checkout -> its place in an installation. `cl.configuration.place` finds both.
CARRIED = {"conf": "remerge/conf", "scripts/build_horovod.py": "remerge/build_horovod.py"}


class BuildPy(build_py):
    """Copies what is in no package into the wheel; an editable installation uses the checkout itself."""

    def run(self):
        super().run()
        if self.editable_mode:
            return
        for source, target in CARRIED.items():
            place = Path(self.build_lib) / target
            if Path(source).is_dir():
                shutil.rmtree(place, ignore_errors=True)  # options that are no longer there
                shutil.copytree(source, place)
            else:
                shutil.copy(source, place)


setup(
    cffi_modules=["native/build_ffi.py:ffi"],
    cmdclass={"build_py": BuildPy},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},  # the extension keeps to the stable ABI: one wheel for all
)
