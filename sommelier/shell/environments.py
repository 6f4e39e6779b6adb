"""`sommelier environment tensorflow`: makes the environment that converts TensorFlow's models."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from sommelier.errors import SommelierError
from sommelier.shell.exits import ExitCode

_DESCRIPTION = """\
Makes an environment for a framework that cannot live in Sommelier's own, below the cache folder.

TensorFlow is needed to import SavedModels, Keras and TensorFlow Lite files: pip fetches it, 1.7 GB
on disk. Nothing else uses it. SOMMELIER_TF_PYTHON names one that exists already.
"""


def main(argv: Sequence[str]) -> int:
    """Makes the environment and says where; the exit code."""
    parser = argparse.ArgumentParser(
        prog="sommelier environment",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("framework", choices=("tensorflow",))
    parser.parse_args(argv)
    from sommelier.analysis.conversion import tensorflow_environment as tensorflow

    print(f"installing {' and '.join(tensorflow.PACKAGES)}, some minutes", file=sys.stderr)
    try:
        print(tensorflow.make_environment())
    except (SommelierError, OSError) as error:
        from sommelier.shell.diagnostics import render_error
        from sommelier.shell.terminal import wants_colour

        colour = wants_colour("auto", sys.stderr)
        print(render_error(error, colour=colour), file=sys.stderr)
        return ExitCode.QUERY_ERROR
    return ExitCode.OK
