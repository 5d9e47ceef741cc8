"""`python -m frugalbo`: the command line."""

import sys

from frugalbo.cli import main

if __name__ == "__main__":
    sys.exit(main())
