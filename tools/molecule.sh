#!/usr/bin/env bash
# Molecule with this checkout's tools and its own memory of which hosts it made.
#
# By default that memory lies in the home directory under the checkout's *name*: two clones called alike would each
# take the other's word that hosts are up. A run that was killed leaves the same lie behind, therefore the role
# scenarios' shared hosts are removed before a test as well as after it, as the other scenarios' sequences do.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH" ANSIBLE_HOME="$PWD/var/ansible"
# A socket's path has room for about a hundred characters; a checkout may lie deeper than that.
export ANSIBLE_SSH_CONTROL_PATH_DIR="${ANSIBLE_SSH_CONTROL_PATH_DIR:-$HOME/.ansible/cp}"
if [[ ${1-} == test && " $* " == *" --shared-state "* && " $* " != *" --destroy=never "* ]]; then
  molecule destroy -s default
fi

# Molecule's last page tells which scenario failed, not which test: that is said after it (tests/conftest.py).
HEDGEROW_FAILURES="$(mktemp)"
export HEDGEROW_FAILURES
trap 'rm -f "$HEDGEROW_FAILURES"' EXIT
molecule "$@" || {
  status=$?
  if [[ -s $HEDGEROW_FAILURES ]]; then
    printf 'Failed tests:\n'
    tail -n 150 "$HEDGEROW_FAILURES"
  fi
  exit "$status"
}
