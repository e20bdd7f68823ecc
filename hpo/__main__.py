"""`python -m hpo` is `hpo`."""

import sys
from pathlib import Path

# `-m` puts the working directory first, where a user's own storage.py may lie; the `hpo` command does not.
if sys.path[0] == str(Path.cwd()) != str(Path(__file__).resolve().parents[1]):
    del sys.path[0]

from hpo.cli import main

if __name__ == "__main__":
    main()
