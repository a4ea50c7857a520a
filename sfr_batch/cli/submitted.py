"""The first file of a submitted job: checks that the package there is the one that has submitted it, then embeds.

It travels alone, as `embed.py`, if the nodes have the package; so it can rely on nothing before it has looked.
"""

import sys
from importlib.metadata import PackageNotFoundError, version


def problem(wanted: str) -> str:
    """What is wrong with the sfr-batch of this Python; empty if nothing is. wanted: its version, - if that is
    unknown."""
    try:
        there = version("sfr-batch")
    except PackageNotFoundError:
        there = ""
    if wanted in ("-", there):
        return ""
    has = f"has sfr-batch {there}" if there else "has no sfr-batch"
    return (
        f"The Python of the job, {sys.executable}, {has}, and the job was submitted by sfr-batch {wanted}. Install "
        "that version in the image of the cluster, or submit without --installed (installed=True): the package then "
        "travels with the job."
    )


def main() -> None:
    """Arguments: the version of the package, then those of `sfr-batch embed`."""
    wanted, *arguments = sys.argv[1:]
    if wrong := problem(wanted):
        print(f"error: {wrong}", file=sys.stderr)
        sys.exit(2)
    sys.argv[1:] = arguments
    from sfr_batch.cli.start import main as run

    run("embed")


if __name__ == "__main__":
    main()
