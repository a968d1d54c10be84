"""The words of a spark-submit: its options, and what among them would hide the package ``tensorflowonspark`` of tfos-fast."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

PACKAGE = "tensorflowonspark"
_FLAGS = {"-v", "--verbose", "--supervise", "-h", "--help", "--version", "--usage-error"}
_FILES = "spark.submit.pyFiles"
_KNOWN = ("tfspark", PACKAGE)  # beginnings of the names under which READMEs have the original's archive
_BESIDE = ("__MACOSX", "EGG-INFO", "MANIFEST.in", "README.md", "setup.py", "setup.cfg", "requirements.txt")


def split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Spark's options, and the program with its arguments."""
    at = 0
    while at < len(words) and words[at].startswith("-"):
        at += 1 if words[at] in _FLAGS or (words[at].startswith("--") and "=" in words[at]) else 2
    return list(words[:at]), list(words[at:])


def beside(program: Sequence[str]) -> Path | None:
    """A package of that name in the folder of the program, where Python looks first."""
    if not program or not program[0].endswith(".py") or (path := _local(program[0])) is None:
        return None
    found = path.resolve().parent / PACKAGE
    return found if (found / "__init__.py").exists() else None


def without_original(options: Sequence[str], say: Callable[[str], None]) -> list[str]:
    """The options without archives that bring the original package: Spark puts them before everything else.

    An archive with other modules is replaced by a copy without the package. ``say`` is given a sentence for each.
    """
    result = list(options)
    for i, word in enumerate(options):
        before = options[i - 1] if i else ""
        if word.startswith("--py-files="):
            begin, _, value = word.partition("=")
            begin += "="
        elif before == "--py-files":
            begin, value = "", word
        elif word.removeprefix("--conf=").startswith(f"{_FILES}=") and (word.startswith("--conf=") or before in ("--conf", "-c")):
            begin, _, value = word.rpartition(f"{_FILES}=")
            begin += f"{_FILES}="
        else:
            continue
        kept = [file for each in value.split(",") if (file := _cleaned(each.strip(), say))]
        if kept:
            result[i] = begin + ",".join(kept)
        else:
            result[i] = ""
            if before in ("--py-files", "--conf", "-c"):
                result[i - 1] = ""
    return [word for word in result if word]


def _local(file: str) -> Path | None:
    """The path of a file on this machine; None for one elsewhere."""
    parts = urlsplit(file)
    if parts.scheme in ("", "local"):
        return Path(parts.path)
    return Path(url2pathname(parts.path)) if parts.scheme == "file" else None


def _cleaned(file: str, say: Callable[[str], None]) -> str | None:
    """The archive, a copy of it without the package, or None."""
    name = file.rpartition("/")[2]
    path = _local(file)
    if path is not None and path.is_dir():
        if not (path / PACKAGE / "__init__.py").exists():
            return file
        say(f"{file} has the package {PACKAGE} in it, which would hide that of tfos-fast; it is left out")
        return None
    try:
        with zipfile.ZipFile(path or "") as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile):
        if not name.lower().startswith(_KNOWN) or not name.endswith((".zip", ".egg", ".whl")):
            return file
        say(f"{file} looks like the original {PACKAGE}, which would hide that of tfos-fast; it is left out")
        return None
    if not any(each.startswith(f"{PACKAGE}/") for each in names):
        return file
    assert path is not None
    others = [each for each in names if not each.startswith(f"{PACKAGE}/") and each.partition("/")[0] not in _BESIDE]
    if not any(each.endswith(".py") for each in others):
        say(f"{file} brings the original package {PACKAGE}, which would hide that of tfos-fast; it is left out")
        return None
    copy = _copied(path, others)
    say(f"{file} brings the original package {PACKAGE}, which would hide that of tfos-fast; a copy without it is sent: {copy}")
    return str(copy)


def _copied(path: Path, names: Sequence[str]) -> Path:
    """A copy of the archive with these members only, in a folder of this user; the same one for the same content."""
    base = Path(tempfile.gettempdir()) / f"tfos-fast-submit-{os.getuid()}"
    base.mkdir(mode=0o700, exist_ok=True)
    about = base.lstat()
    if about.st_uid != os.getuid() or not stat.S_ISDIR(about.st_mode) or about.st_mode & 0o077:
        base = Path(tempfile.mkdtemp(prefix="tfos-fast-submit-"))
    folder = base / hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    folder.mkdir(exist_ok=True)
    made = folder / f"{path.name}.{os.getpid()}"
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as copy:
        for name in names:
            copy.writestr(archive.getinfo(name), archive.read(name))
    made.replace(folder / path.name)
    return folder / path.name
