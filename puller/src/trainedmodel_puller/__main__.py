"""Entry point of `trainedmodel-puller`. Garbage collection is off while it imports.

Nothing imported is ever freed, and collecting takes a sixth of the start-up time, during which the
pod is not ready.
"""

from __future__ import annotations

import gc


def main() -> None:
    """Run the command line, which turns garbage collection on again."""
    gc.disable()
    from trainedmodel_puller.cli.command import main as command  # noqa: PLC0415 - after `disable`

    command()


if __name__ == "__main__":
    main()
