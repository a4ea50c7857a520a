"""The `sfr-batch` command."""
