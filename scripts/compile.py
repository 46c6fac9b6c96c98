"""Builds the extension in place, and says how far it is: of each file when it is done, and that it goes on.

python scripts/compile.py [SECONDS]    # how often, where no file is done (default: 20)
"""

import re
import subprocess
import sys
import threading

SECONDS = float(sys.argv[1]) if len(sys.argv) > 1 else 20.0
COMPILED = re.compile(r"(\[\d+/\d+\]) .*/(csrc/\S+) -o ")  # by ninja, which prints the whole command

command = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
build = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
state, is_built = "[0]", threading.Event()


def tell() -> None:
    while not is_built.wait(SECONDS):
        print(f"{state} still compiling the next", flush=True)


threading.Thread(target=tell, daemon=True).start()
for line in build.stdout or ():
    if found := COMPILED.match(line):
        state = found[1]
        line = f"{state} {found[2]}\n"
    print(line, end="", flush=True)
is_built.set()
sys.exit(build.wait())
