"""The command line: `python -m convinit_ext run | verify | fingerprint | info`."""

from convinit_ext.cli._arguments import FAILURE, parser
from convinit_ext.cli._check import run_fingerprint, run_verify
from convinit_ext.cli._common import CommandError, environment, text_of
from convinit_ext.cli._run import run

__all__ = [
    "FAILURE",
    "CommandError",
    "environment",
    "parser",
    "run",
    "run_fingerprint",
    "run_verify",
    "text_of",
]
