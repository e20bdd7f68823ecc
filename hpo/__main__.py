"""`python -m hpo` is `hpo`."""

import sys
from contextlib import suppress
from pathlib import Path

# `-m` puts the working directory first, where a user's own storage.py may lie; the `hpo` command does not.
with suppress(FileNotFoundError):  # that directory may be gone; the command says so
    if sys.path[0] == str(Path.cwd()) != str(Path(__file__).resolve().parents[1]):
        del sys.path[0]

from hpo.cli import main

if __name__ == "__main__":
    main()
