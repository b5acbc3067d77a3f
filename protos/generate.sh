#!/usr/bin/env bash
# Writes the Python code of protos/elsa/v1 into the folder given (default: the repository's root).
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-.}
PATH="$(dirname "${PYTHON:-.venv/bin/python}"):$PATH" "${PYTHON:-.venv/bin/python}" -m grpc_tools.protoc -I protos \
  --python_out="$out" --grpc_python_out="$out" --mypy_out=quiet:"$out" --mypy_grpc_out=quiet:"$out" \
  protos/elsa/v1/*.proto
