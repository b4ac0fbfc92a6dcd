"""The parts of the build that pyproject.toml cannot express; the rest is there."""

from setuptools import Command, find_packages, setup
from setuptools.command.build import build

# Folders that people look for at the top of the repository, installed inside the package:
# nobody wants a top-level module called "trainers" or "dataset_conversion" in their environment.
FOLDERS = {"nnunet_ssl._trainers": "trainers", "nnunet_ssl._dataset_conversion": "dataset_conversion"}

STARTUP_FILE = "nnunet_ssl.pth"


class BuildStartup(Command):
    """Puts the start-up file at the root of the wheel: Python runs ``.pth`` files of site-packages only.

    ``data_files`` would not do: they aim at ``sys.prefix``, and an editable installation leaves them out.
    """

    description = "copy the file that Python runs when it starts"
    user_options = [("target=", None, "folder that stands for site-packages")]
    editable_mode = False  # setuptools sets it

    def initialize_options(self) -> None:
        """Leave the folder to be found."""
        self.target: str | None = None

    def finalize_options(self) -> None:
        """Find the folder: what lies in ``build_lib`` is not part of an editable wheel."""
        if self.editable_mode:
            self.set_undefined_options("install", ("install_lib", "target"))
        else:
            self.set_undefined_options("build", ("build_lib", "target"))

    def run(self) -> None:
        """Copy the file."""
        self.mkpath(self.target)
        self.copy_file(STARTUP_FILE, self.target)

    def get_source_files(self) -> list[str]:
        """What the source distribution needs for this step."""
        return [STARTUP_FILE]


class Build(build):
    """The ordinary build and the start-up file."""

    sub_commands = [*build.sub_commands, ("build_startup", None)]


setup(
    packages=[*find_packages(include=["nnunet_ssl", "nnunet_ssl.*"]), *FOLDERS],
    package_dir=FOLDERS,
    cmdclass={"build": Build, "build_startup": BuildStartup},
)
