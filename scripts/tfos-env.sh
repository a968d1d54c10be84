#!/usr/bin/env bash
# Makes the environment in which TensorFlowOnSpark is measured beside tfos_fast: its last release, unpatched, on our Spark and TensorFlow.
#
#   scripts/tfos-env.sh [PYTHON]     PYTHON: the interpreter that makes it; default: that of .venv
#   VENV                             where the environment goes; default: .venv-tfos
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=${1:-.venv/bin/python}
venv=${VENV:-.venv-tfos}
# It imports pkg_resources, which setuptools has no more from 80 on, and six, which it does not name.
packages=('tensorflowonspark==2.2.5' 'pyspark==4.3.*' 'tensorflow==2.21.*' numpy six 'setuptools<80')

state="$PWD $("$python" -V) ${packages[*]}"
if [[ "$(cat "$venv/.state" 2>/dev/null)" == "$state" ]]; then exit 0; fi
echo "tfos-env: making $venv with $("$python" -V) (about 700 MB are fetched: minutes)"
"$python" -m venv --clear "$venv"
"$venv/bin/python" -m pip install --quiet "${packages[@]}"
echo "$state" >"$venv/.state"
