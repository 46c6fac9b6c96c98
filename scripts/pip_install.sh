#!/bin/sh
# Runs pip install, and says in one sentence that nothing can be had from the package index, of which pip prints a page.
# Usage: pip_install.sh PYTHON ARGUMENT...
python=$1
shift
said=$(mktemp)
trap 'rm -f "$said"' EXIT
PIP_RETRIES=${PIP_RETRIES:-2} "$python" -m pip install --quiet --quiet "$@" 2>"$said"
status=$?
none=$(sed -n 's/^ERROR: Could not find a version that satisfies the requirement \([^ ]*\).*(from versions: none).*/\1/p' "$said" | head -n 1)
if [ "$status" -ne 0 ] && [ -n "$none" ]; then
    echo "pip finds no $none: the package index cannot be reached, or has none for this Python; set PIP_INDEX_URL, or HTTPS_PROXY behind a proxy" >&2
else
    cat "$said" >&2
fi
exit "$status"
