"""The command `trainedmodel-puller`: what it needs is imported without a look for garbage.

What is imported stays. Looking through all of it again and again is a sixth of what a start costs,
and a start is waited for: its pod is not ready before.
"""

from __future__ import annotations

import gc


def main() -> None:
    """Run the command line; garbage is collected again when it runs."""
    gc.disable()
    from trainedmodel_puller.cli.command import main as command  # noqa: PLC0415 - after `disable`

    command()


if __name__ == "__main__":
    main()
