"""The C++ compiler that tests run, and the sources that they give it."""

from __future__ import annotations

import os
import shutil

from processes import ROOT

CSRC = ROOT / "csrc"
CXX = shutil.which(os.environ.get("CXX", "c++").split()[-1])
# Formulas are called, not copied into every caller (csrc/core/macros.h): a fraction of the time to compile.
CALLED = "-DCONVINIT_INLINE=__attribute__((unused))"
