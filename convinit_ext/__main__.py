"""The command line, `python -m convinit_ext`."""

import sys

from convinit_ext.cli import main

if __name__ == "__main__":
    sys.exit(main())
