"""`python -m ramnas_edge` is `ramnas-edge`."""

import sys

from ramnas_edge.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
