"""``python -m padim_bench`` is ``padim-bench``."""

import sys

from padim_bench.cli import main

sys.exit(main())
