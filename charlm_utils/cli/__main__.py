"""`python -m charlm_utils.cli`, which is the `charlm` command."""

from charlm_utils.__main__ import main

if __name__ == "__main__":
    raise SystemExit(main())
