"""Build the compiled floor: ``src_cython/tfos_fast/native/**/*.pyx`` become modules of the package ``tfos_fast.native``.

Switches, from the environment:

=====================  ==============================================================
``TFOS_BUILD=debug``     no optimisation, symbols, bounds checks in Cython
``TFOS_BUILD=sanitize``  address and undefined-behaviour sanitizers (preload libasan)
``TFOS_BUILD=fuzz``      address sanitizer and counters for libFuzzer (CC=clang LDSHARED="clang -shared")
``TFOS_BUILD=coverage``  line tracing, for coverage of the ``.pyx`` files
=====================  ==============================================================

Everything else about the package stands in ``pyproject.toml``.
"""

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

MODES = {
    # No -march=native and no -ffast-math: wheels travel, and NaN must survive packing.
    # The inner loops begin at cache lines: an edit elsewhere in the module cannot slow them down by shifting them.
    "release": (["-O3", "-g0", "-falign-functions=64", "-falign-loops=64"], []),
    "debug": (["-O0", "-g3"], []),
    "sanitize": (
        ["-O1", "-g3", "-fsanitize=address,undefined", "-fno-omit-frame-pointer"],
        ["-fsanitize=address,undefined"],
    ),
    "fuzz": (["-O1", "-g3", "-fsanitize=address,fuzzer-no-link", "-fno-omit-frame-pointer"], ["-fsanitize=address,fuzzer-no-link"]),
    "coverage": (["-O0", "-g1"], []),
}
mode = os.environ.get("TFOS_BUILD", "release")
if mode not in MODES:
    raise SystemExit(f"TFOS_BUILD={mode!r} is unknown; choose one of {', '.join(MODES)}")
compile_args, link_args = MODES[mode]
# A user's compiler may warn of something that ours does not: that must not stop an installation.
strict = [] if mode == "release" else ["-Werror"]

directives = {"language_level": 3, "embedsignature": True}
if mode == "release":
    directives |= {"boundscheck": False, "wraparound": False, "initializedcheck": False}
macros = []
if mode == "coverage":
    directives["linetrace"] = True
    macros.append(("CYTHON_TRACE_NOGIL", "1"))

root = Path(__file__).parent
os.chdir(root)
sources = Path("src_cython")
extensions = [
    Extension(
        ".".join(path.relative_to(sources).with_suffix("").parts),
        [str(path)],
        include_dirs=["src_cython/tfos_fast/native"],
        depends=[str(header) for header in sources.rglob("*.h")],
        define_macros=[("_GNU_SOURCE", "1"), *macros],
        extra_compile_args=["-Wall", "-Wno-unused-function", "-Wno-unreachable-code", *strict, *compile_args],
        extra_link_args=link_args,
    )
    for path in sorted(sources.rglob("*.pyx"))
]
setup(
    ext_modules=cythonize(
        extensions,
        compiler_directives=directives,
        include_path=["src_cython"],
        build_dir=f"build/cython-{mode}",  # a mode has directives of its own
        gdb_debug=mode == "debug",
    )
)
