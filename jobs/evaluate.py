"""Score a model on the cluster: `ray job submit --working-dir . -- python jobs/evaluate.py configs/x.yaml`.

The same as `sfr-batch evaluate`; a file, because a job is submitted as a folder and a command.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the submitted folder, where sfr-batch need not be installed

from sfr_batch.cli.start import main

COMMAND = "evaluate"

if __name__ == "__main__":
    main(COMMAND)
