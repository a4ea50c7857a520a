"""`python -m sfr_batch.cli`: the `sfr-batch` command."""

from sfr_batch.cli.start import main

if __name__ == "__main__":
    main()
