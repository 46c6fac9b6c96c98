"""The command line, `python -m convinit_ext`."""

import signal
import sys

from convinit_ext.cli import main

if __name__ == "__main__":
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # main() says what was interrupted
    sys.exit(main())
