#!/usr/bin/env bash
# Makes the virtual environment of this clone: tfos_fast built and installed, with Spark, TensorFlow and the test tools.
#
# What the machine lacks (C compiler, Python headers, venv module, Java 17+, make) is installed through apt when we may: as root, or
# with a sudo that asks no password. Otherwise one sentence says what to run. When nothing has changed, nothing is done.
#
#   PYTHON       the interpreter (3.10 to 3.13); default: the first suitable one of python3, python3.13 ... python3.10
#   VENV         where the environment goes; default: .venv
#   EXTRAS       which extras of tfos-fast to install; default: test, which is everything
#   CONSTRAINTS  a pip constraints file
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

venv=${VENV:-.venv}
extras=${EXTRAS:-test}
constraints=${CONSTRAINTS:-}

say() { echo "setup: $*"; }
fail() {
    echo "setup: $*" >&2
    exit 1
}

# ---- Python ------------------------------------------------------------------------------------------------------------------

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.10}; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1; then
            "$candidate" -c 'import sys; print(sys.executable)'
            return
        fi
    done
    return 1
}

# ---- what the system must have -----------------------------------------------------------------------------------------------

can_compile() {
    local compiler headers
    headers=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
    compiler=${CC:-$("$python" -c 'import sysconfig; print(sysconfig.get_config_var("CC") or "cc")')}
    # The compiler's name may come with options.
    echo '#include <Python.h>' | ${compiler} -I"$headers" -x c -fsyntax-only - >/dev/null 2>&1
}

java_package() {
    # Which one there is depends on the distribution's age; Spark runs on each of them.
    local version
    for version in 17 21 25; do
        if [[ "$(LC_ALL=C apt-cache policy "openjdk-$version-jre-headless" 2>/dev/null)" == *"Candidate: "[0-9]* ]]; then
            echo "openjdk-$version-jre-headless"
            return
        fi
    done
    echo default-jre-headless # apt has no lists yet
}

missing_packages() {
    local version
    version=$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
    can_compile || echo gcc libc6-dev "$version-dev"
    "$python" -c 'import ensurepip, venv' >/dev/null 2>&1 || echo "$version-venv"
    scripts/java-home >/dev/null || java_package
    command -v make >/dev/null || echo make
}

install_packages() {
    local as_root=() packages output wait=(-o DPkg::Lock::Timeout=120)
    if ! command -v apt-get >/dev/null; then
        fail "please install a C compiler, the headers and the venv module of $python, Java 17 or newer and make, then run this again;" \
            "this machine has no apt-get to do it with, and the Debian packages would be: $*"
    fi
    if [[ $(id -u) -ne 0 ]]; then
        if ! sudo -n true >/dev/null 2>&1; then
            fail "please run this as root, then start again: apt-get update && apt-get install --no-install-recommends $*"
        fi
        as_root=(sudo -n)
    fi
    as_root+=(env DEBIAN_FRONTEND=noninteractive)
    "${as_root[@]}" apt-get -qq "${wait[@]}" update || say "apt's lists could not be refreshed; trying with those here"
    # Asked again, as only fresh lists tell which Java there is.
    mapfile -t packages < <(missing_packages | tr ' ' '\n')
    say "installing through apt: ${packages[*]}"
    # Minimal systems strip this folder, and some Java packages fail to install without it.
    "${as_root[@]}" mkdir -p /usr/share/man/man1
    if ! output=$("${as_root[@]}" apt-get -qq "${wait[@]}" install -y --no-install-recommends "${packages[@]}" 2>&1); then
        echo "$output" >&2
        fail "apt could not install: ${packages[*]}"
    fi
}

check_system() {
    local packages
    mapfile -t packages < <(missing_packages | tr ' ' '\n')
    if ((${#packages[@]} == 0)); then return; fi
    install_packages "${packages[@]}"
    mapfile -t packages < <(missing_packages | tr ' ' '\n')
    # A Python that did not come from apt has its headers and venv module elsewhere.
    ((${#packages[@]} == 0)) || fail "$python still lacks what should have come with: ${packages[*]}; set PYTHON to another interpreter."
}

# ---- the environment ---------------------------------------------------------------------------------------------------------

python=$(find_python) ||
    fail "tfos_fast needs Python 3.10 to 3.13, and ${PYTHON:-python3} here is $(${PYTHON:-python3} -V 2>&1 || true);" \
        "install one and set PYTHON=/path/to/python3.x."

# Where the environment lies is part of its identity: its programs and the editable install hold absolute paths.
place="$PWD $venv $("$python" -V)"
mapfile -t sources < <(find src_cython \( -name '*.p[yx]*' -o -name '*.h' \) -type f | sort)
state="$extras $(cat pyproject.toml setup.py ${constraints:+"$constraints"} "${sources[@]}" | sha256sum | cut -d' ' -f1)"
built() {
    local suffix source
    suffix=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_config_var("EXT_SUFFIX"))' 2>/dev/null) || return 1
    for source in "${sources[@]#src_cython/}"; do
        [[ "$source" != *.pyx || -f "${source%.pyx}$suffix" ]] || return 1
    done
}

# Two calls at once, as of .ci/run, do not install into each other's way.
exec 9<scripts/setup.sh
! command -v flock >/dev/null || flock 9

if [[ "$(cat "$venv/.place" 2>/dev/null)" == "$place" && "$(cat "$venv/.state" 2>/dev/null)" == "$state" ]] && built &&
    scripts/java-home >/dev/null && command -v make >/dev/null; then
    exit 0
fi

check_system
if [[ "$(cat "$venv/.place" 2>/dev/null)" != "$place" ]] || ! "$venv/bin/python" -c '' 2>/dev/null; then
    say "making $venv with $("$python" -V)"
    "$python" -m venv --clear "$venv"
    echo "$place" >"$venv/.place"
fi
rm -f "$venv/.state"
say "building tfos_fast and installing what it needs into $venv (the first time about 700 MB are fetched: minutes)"
"$venv/bin/python" -m pip install --quiet --use-pep517 ${constraints:+--constraint "$constraints"} --editable ".[$extras]"
echo "$state" >"$venv/.state"
say "$venv is ready"
