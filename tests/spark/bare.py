"""A Python that has pyspark and TensorFlow, but neither this package nor the libraries that it needs."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

MISSING = ("tfos", "__editable__", "zmq", "pyzmq", "msgspec", "psutil", "cloudpickle", "_pytest", "pytest")


def bare_python(folder: Path) -> Path:
    """Make it in a folder; the executable."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=60)
    packages = folder / "packages"
    packages.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if not entry.name.lower().startswith(MISSING) and entry.suffix != ".pth":
            (packages / entry.name).symlink_to(entry)
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    (folder / "lib" / version / "site-packages" / "borrowed.pth").write_text(f"{packages}\n")
    return folder / "bin" / "python"
