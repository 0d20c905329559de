"""`python -m fungible.cli.supervised …`: `fungible …` as a child that never outlives its parent.

The parent holds our standard input open. When it closes, because the parent ended or was
killed, this process gets a SIGTERM: a server that runs shuts down in order, and one that
still loads its model ends on the spot.
"""

import os
import signal
import sys
import threading
import time

from fungible.cli.main import main

# Longer than any orderly shutdown: shipping what is left takes the most.
ORPHAN_S = 90.0


def end_with_parent() -> None:
    """Wait for the end of standard input, then end this process, gently at first."""
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(ORPHAN_S)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=end_with_parent, name="parent", daemon=True).start()
    main()
