#!/bin/sh
# Prints one sentence about the first tool that building convinit_ext needs and this machine lacks; nothing if it has all.
# Usage: missing_tool.sh PYTHON CXX. Plain sh, since Python may be what is missing.
python=$1
cxx=$2

if ! command -v "$python" >/dev/null 2>&1; then
    echo "Python is missing: there is no command '$python'; install Python 3.10 or later, or set PYTHON"
    exit
fi
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
    echo "Python 3.10 or later is needed: '$python' is ${version:-no working Python}; set PYTHON to a later one"
    exit
fi
if ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then
    echo "The venv module is missing: '$python' cannot make virtual environments; install it (Debian: apt install python3-venv)"
    exit
fi
# $cxx and $headers unquoted or quoted on purpose: CXX may hold options ("ccache c++"), a path may hold blanks.
# shellcheck disable=SC2086
if ! echo '#include <atomic>' | $cxx -std=c++17 -x c++ -fsyntax-only - >/dev/null 2>&1; then
    echo "A C++17 compiler is missing: '$cxx' does not compile; install one (Debian: apt install g++), or set CXX"
    exit
fi
headers=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
if [ ! -f "$headers/Python.h" ]; then
    echo "Python's headers are missing: there is no $headers/Python.h; install them (Debian: apt install python3-dev)"
fi
