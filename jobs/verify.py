"""Check the model on a machine of the cluster: `ray job submit --working-dir . --entrypoint-num-gpus 1 -- python
jobs/verify.py configs/x.yaml`.

The same as `sfr-batch verify`; a file, because a job is submitted as a folder and a command.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the submitted folder, where sfr-batch need not be installed

from sfr_batch.cli.start import main

COMMAND = "verify"

if __name__ == "__main__":
    main(COMMAND)
