"""What the command line says, and to whom: stdout and stderr may be closed, full or unread."""

import contextlib
import io
import os
import shlex
import sys

from tqdm import tqdm


def say(words: str) -> None:
    """`words` on stderr, without what could steer a terminal; nobody need be there to read it."""
    plain = "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in words)
    with contextlib.suppress(OSError, ValueError, AttributeError):  # it may be closed, or None
        print(f"charlm: {plain}", file=sys.stderr or io.StringIO(), flush=True)


def flushed(status: int, *, strict: bool = False) -> int:
    """The status, once all output is out; `strict` where the output is what was asked for."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
        return status
    except BrokenPipeError:
        pass
    except (OSError, ValueError) as error:
        say(str(error))
        status = max(status, int(strict))
    with contextlib.suppress(OSError, ValueError):  # or Python tries again as it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return status


def tell(line: str) -> None:
    """Print a line beside the real work, which goes on where nobody can read it."""
    with contextlib.suppress(OSError, ValueError):
        print(line, flush=True)


def quoted(path: str | os.PathLike) -> str:
    """A path as a shell takes it, also where it begins with a minus."""
    path = os.fspath(path)
    return shlex.quote(f"./{path}" if path.startswith("-") else path)


class Display:
    """What a run shows: a bar on stderr after a few seconds, a line on stdout for each epoch.

    Neither may end the run: a reader that has gone, or a full disk behind a stream, is no
    reason to lose a training. `progress=None` shows both unless `CHARLM_QUIET` is 1.
    """

    def __init__(self, steps: int, done: int, progress: bool | None):
        self.quiet = not progress if progress is not None else os.environ.get("CHARLM_QUIET") == "1"
        hidden = self.quiet or sys.stderr is None  # there is none under pythonw, or after 2>&-
        options = {"total": steps, "initial": done, "delay": 3}
        try:
            self.bar = tqdm(**options, disable=hidden)
        except (OSError, ValueError):
            self.bar = tqdm(**options, disable=True)

    def update(self) -> None:
        """One update more."""
        with contextlib.suppress(OSError, ValueError):
            self.bar.update()

    def say(self, line: str) -> None:
        """A line above the bar."""
        if self.quiet:
            return
        with contextlib.suppress(OSError, ValueError):
            self.bar.clear()
        with contextlib.suppress(OSError, ValueError):
            print(line, flush=True)

    def __enter__(self) -> "Display":
        return self

    def __exit__(self, *error: object) -> None:
        with contextlib.suppress(OSError, ValueError):
            self.bar.close()
