"""`python -m charlm_utils`, which is the `charlm` command."""

import os
import signal
import sys


def main() -> int:
    """Run the command line; Ctrl-C while the libraries are still being loaded takes one line."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # under nohup it may be ignored: so it stays
        signal.signal(signal.SIGINT, _leave)
    from charlm_utils import cli  # a second or two

    try:
        signal.signal(signal.SIGINT, before)
        return cli.main()
    except KeyboardInterrupt:  # outside of what `cli.main` guards
        return 130


def _leave(number: int, frame: object) -> None:
    """End at once: nothing was begun, and a library half loaded turns Ctrl-C into other errors."""
    if sys.stderr is not None:
        os.write(sys.stderr.fileno(), b"charlm: stopped\n")
    os._exit(130)


if __name__ == "__main__":
    raise SystemExit(main())
