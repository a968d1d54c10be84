#!/usr/bin/env bash
# Runs the tests of the compiled modules and of the channel with the modules built under the address and undefined-behaviour sanitizers.
# Happens in build/sanitize, so the modules of this clone stay as they are. $1: the Python to use; the rest goes to pytest, or after
# --fuzz to tests/fuzz/stream.py.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=$(realpath --no-symlinks "$1")
shift
rm -rf build/sanitize
mkdir -p build/sanitize
cp -r src_cython tests setup.py pyproject.toml build/sanitize/
mkdir build/sanitize/tfos_fast
tar -C tfos_fast --exclude='*.so' --exclude=__pycache__ -c . | tar -C build/sanitize/tfos_fast -x
cd build/sanitize
TFOS_BUILD=sanitize "$python" -W ignore setup.py -q build_ext --inplace

# The interpreter itself is not sanitized, so the runtimes come first by force; it also keeps memory until it ends, which is no leak.
# Freed memory is held back only shortly, as some tests look at how much this process has.
run=(-m pytest -q --capture=no -p no:cacheprovider
    -m "not tensorflow" tests/unit/native
    tests/unit/channel/test_{channel,column_kinds,deaths,ends,inference_results,leases,rows,threads}.py
    tests/unit/channel/{arrow/test_pack,broker/test_malformed_messages,codec/test_decode,codec/test_fingerprint,host/test_segment}.py
    tests/unit/channel/{reader/test_assemble,reader/test_shuffle_window,schema/test_unused_columns}.py "$@")
if [[ "${1:-}" == --fuzz ]]; then
    run=(-m tests.fuzz.stream "${@:2}")
    export PYTHONMALLOC=malloc # short streams, too, have poisoned memory around them
fi

LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so)" \
    ASAN_OPTIONS=detect_leaks=0:quarantine_size_mb=4 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1 \
    "$python" "${run[@]}"
