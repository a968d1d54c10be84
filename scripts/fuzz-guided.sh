#!/usr/bin/env bash
# Fuzzes the decoder of pickled batches by libFuzzer (atheris) under the address sanitizer, in build/fuzz. $1: the Python to use, $2: seconds.
# Needs clang and, in that Python, atheris; both are installed when they are missing and we may.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=$(realpath --no-symlinks "$1")
seconds=$2
if ! command -v clang >/dev/null; then
    if [[ $(id -u) != 0 ]] || ! command -v apt-get >/dev/null; then
        echo "fuzz-guided: clang is not installed; install it (apt install clang) and run this again" >&2
        exit 1
    fi
    apt-get install -y -qq clang >/dev/null
fi
"$python" -c 'import atheris' 2>/dev/null || "$python" -m pip install -q 'atheris>=2.3'

mkdir -p build/fuzz
rm -rf build/fuzz/{src_cython,tests,tfos_fast}
cp -r src_cython tests setup.py pyproject.toml build/fuzz/
mkdir build/fuzz/tfos_fast
tar -C tfos_fast --exclude='*.so' --exclude=__pycache__ -c . | tar -C build/fuzz/tfos_fast -x
cd build/fuzz
TFOS_BUILD=fuzz CC=clang LDSHARED="clang -shared" "$python" -W ignore setup.py -q build_ext --inplace

runtime=$(dirname "$("$python" -c 'import atheris; print(atheris.path())')")
runtime=$(find "$runtime" -maxdepth 2 -name asan_with_fuzzer.so | head -1)
if [[ -z $runtime ]]; then
    echo "fuzz-guided: this atheris has no asan_with_fuzzer.so, which its wheels for Linux have" >&2
    exit 1
fi
LD_PRELOAD=$runtime PYTHONMALLOC=malloc ASAN_OPTIONS=detect_leaks=0:quarantine_size_mb=4:allocator_may_return_null=1 \
    "$python" -m tests.fuzz.guided corpus -max_total_time="$seconds" -max_len=4096 -rss_limit_mb=4096 -print_final_stats=1
