#!/usr/bin/env bash
# Make a fresh Debian machine able to run Hedgerow: missing Debian packages, then .venv from a lock.
#   tools/bootstrap.sh controller|dev [vm]      with vm: also what virtual machines need
# Idempotent: with nothing to do it takes a few milliseconds. Never touches the system's own Python packages.
set -euo pipefail
cd "$(dirname "$0")/.."

lock=${1:?usage: tools/bootstrap.sh controller|dev [vm]}
profile=${2:-}
case $lock in
  controller) locks=(requirements/controller.txt requirements/convert.txt) ;;
  dev) locks=(requirements/dev.txt) ;;
  *) echo "bootstrap: no lock named '$lock'; use controller or dev" >&2; exit 2 ;;
esac
[[ -z $profile || $profile == vm ]] || { echo "bootstrap: no profile named '$profile'; there is vm" >&2; exit 2; }

say() { printf '==> %s\n' "$*" >&2; }
fail() { printf 'error: %s\n' "$1" >&2; shift; printf '  %s\n' "$@" >&2; exit 1; }

install_missing_packages() {
  local package reason section='' missing=() sudo=()
  while read -r package reason; do
    [[ $package == \#* || -z $package ]] && continue
    if [[ $package == \[*\] ]]; then section=${package:1:-1}; continue; fi
    [[ -z $section || $section == "$profile" ]] || continue
    if [[ $(dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null) != ii* ]]; then
      # Another Python than Debian's brings its own venv module.
      if [[ $package == python3-venv ]] && "$python" -c 'import ensurepip' 2>/dev/null; then continue; fi
      missing+=("$package")
      say "missing Debian package: $package ($reason)"
    fi
  done <tools/debian-packages.txt
  ((${#missing[@]} == 0)) && return
  if ((EUID != 0)); then
    command -v sudo >/dev/null || fail "installing packages needs root, and there is no sudo" \
      "next: as root, run: apt-get install ${missing[*]}"
    sudo=(sudo)
  fi
  say "installing ${#missing[@]} Debian packages"
  "${sudo[@]}" apt-get update -qq
  DEBIAN_FRONTEND=noninteractive "${sudo[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

find_python() {
  local candidate
  for candidate in ${HEDGEROW_PYTHON:-} python3 python3.13 python3.12 python3.11; do
    if command -v "$candidate" >/dev/null &&
      "$candidate" -c 'import sys; raise SystemExit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
  return 1
}

command -v dpkg-query >/dev/null || fail "this is no Debian system: dpkg-query is missing" \
  "next: use Debian 12 or 13, or install the packages of tools/debian-packages.txt by hand"
python=$(find_python) || python=
if [[ -z $python ]]; then
  ((EUID == 0)) || command -v sudo >/dev/null || fail "no Python 3.11 to 3.13 found" "next: apt-get install python3"
  python=python3
fi
install_missing_packages
python=$(find_python) || fail "no Python 3.11 to 3.13 found on PATH" \
  "next: install one, or name it: HEDGEROW_PYTHON=/path/to/python3.12 make demo"

# A dev environment also serves where a controller's is asked for; each lock keeps its own stamp.
stamp=.venv/.hedgerow-$lock
want=$(cat "${locks[@]}" pyproject.toml <("$python" --version) | sha256sum)
if [[ $lock == controller && -f .venv/.hedgerow-dev ]]; then
  stamp=.venv/.hedgerow-dev
  want=$(cat requirements/dev.txt pyproject.toml <("$python" --version) | sha256sum)
  locks=(requirements/dev.txt)
fi
[[ -f $stamp && $(<"$stamp") == "$want" ]] && exit 0

say "making .venv with $("$python" --version) from ${locks[*]} (a minute the first time)"
"$python" -m venv .venv
arguments=()
for file in "${locks[@]}"; do arguments+=(-r "$file"); done
.venv/bin/pip install --quiet --disable-pip-version-check --require-hashes "${arguments[@]}"
.venv/bin/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
printf '%s\n' "$want" >"$stamp"
