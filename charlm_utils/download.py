"""One file from the web, whatever the server does: bounded in time and in size.

fastdownload does the work, in a process of its own. A call to a server can wait where no time-out
of Python's reaches, for a name server or for one more byte; a process can be ended all the same.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

WORK = """
import sys
try:
    import resource  # an error page is read whole: it must not fill the memory
    resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))
except (ImportError, OSError, ValueError):
    pass
try:
    from fastdownload.core import download_url
    download_url(sys.argv[1], sys.argv[2], timeout=float(sys.argv[3]), show_progress=False)
except NameError:  # what some versions make of it: they name an error that they don't know
    sys.exit("the server broke off before the end")
except BaseException as error:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    sys.exit(lines[0][:300])
"""


def fetch(url: str, *, limit: int, silence: float = 20.0, seconds: float = 60.0) -> bytes:
    """The bytes at an address, by fastdownload's `download_url`.

    A server may stay silent for `silence` seconds and take `seconds` for the whole, from looking
    up its name to the last byte, however slowly it drips. More than `limit` bytes are not
    waited for. Raises `OSError` with one reason: no connection, time over, an error status, too
    long, or broken off before the announced end.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        target = Path(folder) / "text"
        command = [sys.executable, "-c", WORK, url, str(target), str(silence)]
        none, pipe = subprocess.DEVNULL, subprocess.PIPE
        with subprocess.Popen(command, stdin=none, stdout=none, stderr=pipe) as work:
            try:
                _watch(work, target.with_name("text.part"), limit, seconds)
            finally:
                work.kill()
                work.wait()
            said = work.communicate()[1].decode("utf-8", "replace").strip().splitlines()
        if work.returncode:
            raise OSError(said[-1] if said else f"the download ended with {work.returncode}")
        return _read(target, limit)


def _watch(work: subprocess.Popen, part: Path, limit: int, seconds: float) -> None:
    """Wait for the end of the work, or raise `OSError` where it goes on for too long."""
    deadline = time.monotonic() + seconds
    while work.poll() is None:
        if time.monotonic() > deadline:
            raise TimeoutError(f"not done after {seconds:.4g} s")
        if part.is_file():
            _check_size(part, limit)
        time.sleep(0.02)


def _read(path: Path, limit: int) -> bytes:
    _check_size(path, limit)
    return path.read_bytes()


def _check_size(path: Path, limit: int) -> None:
    try:
        size = path.stat().st_size
    except FileNotFoundError:  # renamed in this moment: it is complete
        return
    if size > limit:
        raise OSError(f"more than the {limit:,} bytes expected at most")
