"""`python -m ramnas_host` does the same as the command `ramnas`."""

import sys

from ramnas_host.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
