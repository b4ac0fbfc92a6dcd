"""Fresh virtual environments without nnunet-ssl.

They are light: the packages of the running interpreter are borrowed, so that torch and nnU-Net need not be
installed again.
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

PIP = (sys.executable, "-m", "pip")


class Environment:
    """A virtual environment, and an empty folder to run its Python in.

    It sees links to all installed packages but ours, whose name may be there as a package, as the record of
    an installation, or as the finder of an editable one. Start-up files (.pth) are not linked.
    """

    def __init__(self, folder: Path) -> None:
        venv.EnvBuilder(symlinks=os.name != "nt").create(folder / "env")
        self.python = folder / "env" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        self.empty, borrowed = folder / "empty", folder / "borrowed"
        self.empty.mkdir()
        borrowed.mkdir()
        for packages in (Path(p) for p in sys.path if p.endswith(("site-packages", "dist-packages"))):
            for package in packages.iterdir():
                link = borrowed / package.name
                if package.suffix != ".pth" and "nnunet_ssl" not in package.name and not link.exists():
                    link.symlink_to(package)
        self.packages = Path(self.run("import sysconfig; print(sysconfig.get_path('purelib'))"))
        (self.packages / "borrowed.pth").write_text(str(borrowed))
        self.before = set(os.listdir(self.packages))

    def run(self, code: str, *arguments: object, **variables: str) -> str:
        """Run code as a user would: an empty folder, no variable of ours or nnU-Net's."""
        return self.call("-c", code, *arguments, **variables)

    def call(self, *command: object, **variables: str) -> str:
        """Run Python with arguments, in the same way."""
        clean = {k: v for k, v in os.environ.items() if not k.upper().startswith(("NNUNET", "PYTHON"))}
        return call(self.python, *command, cwd=self.empty, env={**clean, **variables})

    def pip(self, *arguments: object) -> None:
        """Run the pip of the running interpreter on this environment."""
        call(*PIP, "--python", self.python, *arguments)

    def new_names(self) -> set[str]:
        """What pip has added to site-packages."""
        return set(os.listdir(self.packages)) - self.before - {"__pycache__"}


def call(*command: object, **options: Any) -> str:
    """Run a command; what it printed."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=900, **options)
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    assert "Error processing line" not in done.stderr  # Python's complaint about a start-up file
    return done.stdout.strip()
