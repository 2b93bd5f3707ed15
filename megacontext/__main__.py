"""`python -m megacontext`, which `torchrun -m megacontext` needs."""

import sys

from megacontext.cli import main

sys.exit(main())
