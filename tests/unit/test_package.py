"""The sdist is complete, the wheel carries the compiled modules, and it works in a fresh environment."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "src_cython"
COMPILED = sorted(str(path.relative_to(SOURCES).with_suffix("")) for path in SOURCES.rglob("*.pyx"))

# Rows go through a channel of the installed package: the owner's broker process, a writer and a reader.
PROGRAM = """
import sys, threading
import tfos_fast
from tfos_fast.channel import Channel

assert tfos_fast.__file__.startswith(sys.prefix), tfos_fast.__file__

def write(address):
    writer = Channel.attach(address).writer()
    writer.write_rows((float(i), i) for i in range(1000))
    writer.end_partition()
    writer.close()

with Channel.create(memory="16m") as channel:
    reader = Channel.attach(channel.address).reader()
    thread = threading.Thread(target=write, args=(channel.address,))
    thread.start()
    rows = 0
    for batch in reader.batches(100):
        rows += len(batch["c1"])
        if rows == 1000:
            break
    thread.join()
    print("rows", rows)
"""


def check_output(*command: str, cwd: Path) -> str:
    """Output of a command; its whole output is in the failure when it fails."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and with the wheel that was made from it."""
    folder = tmp_path_factory.mktemp("package")
    shutil.copytree(
        ROOT,
        folder / "source",
        ignore=shutil.ignore_patterns(".git", ".venv*", "build", "dist", "demo-output", "*.so", "*.egg-info", "__pycache__"),
    )
    # Without isolation: the build requirements are part of the test extra, and nothing is fetched.
    check_output(*(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder / "dist"), "."), cwd=folder / "source")
    return folder / "dist"


@pytest.mark.long
def test_the_sdist_has_every_source(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for pattern in ("src_cython/**/*.p[yx]*", "tfos_fast/**/*.py", "tfos_fast/**/*.pyi"):
        wanted = {str(path.relative_to(ROOT)) for path in ROOT.glob(pattern)}
        assert wanted
        assert wanted <= names
    assert {"LICENSE", "README.md", "tfos_fast/py.typed"} <= names


@pytest.mark.long
def test_the_wheel_has_the_compiled_modules_and_their_types(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    assert {f"{name}{suffix}" for name in COMPILED} <= names
    assert {str(path.relative_to(ROOT)) for path in (ROOT / "tfos_fast").rglob("*.pyi")} <= names
    assert "tfos_fast/py.typed" in names
    assert all(name.startswith(("tfos_fast/", "tfos_fast-")) for name in names), "the wheel installs nothing else"


def test_every_compiled_module_has_a_stub() -> None:
    assert COMPILED
    assert not [name for name in COMPILED if not (ROOT / name).with_suffix(".pyi").exists()]


@pytest.mark.long
def test_the_wheel_works_in_a_fresh_environment(built: Path, tmp_path: Path) -> None:
    (wheel,) = built.glob("*.whl")
    check_output(sys.executable, "-m", "venv", "env", cwd=tmp_path)
    python = str(tmp_path / "env" / "bin" / "python")
    check_output(python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", str(wheel), cwd=tmp_path)
    # The dependencies are taken from the environment of the tests, behind the wheel's own packages on the path.
    purelib = check_output(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip()
    (Path(purelib) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    assert check_output(python, "-I", "-c", PROGRAM, cwd=tmp_path) == "rows 1000\n"
