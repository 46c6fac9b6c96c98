"""Fills the weights of neural networks in place, fast and reproducibly.

A weight's value is a pure function of seed, parameter name, element index and distribution, written down in
docs/value-contract.md.
"""

import os as _os
import signal as _signal
import sys as _sys
from importlib import import_module as _import_module
from importlib.util import find_spec as _find_spec
from typing import TYPE_CHECKING

if _missing := [name for name in ("torch", "numpy", "safetensors") if _find_spec(name) is None]:
    raise ImportError(
        f"convinit_ext needs torch, numpy and safetensors, and {', '.join(_missing)} "
        f"{'is' if len(_missing) == 1 else 'are'} not installed: pip install {' '.join(_missing)}"
    )

# `python -m convinit_ext` imports this file before __main__, and with it torch, which takes a second or two.
if (
    _sys.argv[:1] == ["-m"]
    and _sys.orig_argv[-len(_sys.argv)] in ("convinit_ext", "-mconvinit_ext")
    and _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler
):

    def _leave(*_: object) -> None:
        _os.write(2, b"convinit_ext: interrupted\n")
        _os._exit(130)

    _signal.signal(_signal.SIGINT, _leave)  # __main__ puts the other one back

from convinit_ext import init as init
from convinit_ext._engine import FINGERPRINT_VERSION
from convinit_ext.distributions import Constant, Normal, TruncatedNormal, Uniform
from convinit_ext.intercept import intercept
from convinit_ext.keys import CONTRACT_VERSION, Key, canonical_name
from convinit_ext.sharding import Shard

if TYPE_CHECKING:
    from convinit_ext import recipes as recipes
    from convinit_ext.checkpoint import Verification, fingerprint, fingerprints, save_model, verify
    from convinit_ext.inspection import Inspection, inspect_model
    from convinit_ext.model import init_ensemble, init_model_, plan_model
else:
    # What the drop-in functions do without is imported once it is asked for: it takes longer than they do.
    _ROOMS = {
        "checkpoint": ("Verification", "fingerprint", "fingerprints", "save_model", "verify"),
        "inspection": ("Inspection", "inspect_model"),
        "model": ("init_ensemble", "init_model_", "plan_model"),
        "recipes": (),
    }

    def __getattr__(name: str) -> object:
        for room, names in _ROOMS.items():
            if name == room or name in names:
                module = _import_module(f"{__name__}.{room}")
                return module if name == room else globals().setdefault(name, getattr(module, name))
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})


__version__ = "0.1.0"

__all__ = [
    "CONTRACT_VERSION",
    "FINGERPRINT_VERSION",
    "Constant",
    "Inspection",
    "Key",
    "Normal",
    "Shard",
    "TruncatedNormal",
    "Uniform",
    "Verification",
    "__version__",
    "canonical_name",
    "fingerprint",
    "fingerprints",
    "init",
    "init_ensemble",
    "init_model_",
    "inspect_model",
    "intercept",
    "plan_model",
    "save_model",
    "verify",
]
