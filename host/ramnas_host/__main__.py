"""`python -m ramnas_host` is `ramnas`."""

import sys

from ramnas_host.verbs import main

if __name__ == "__main__":
    sys.exit(main())
