"""What the demo raises on purpose."""

from trainedmodel_devkit.errors import DevkitError


class StepFailed(DevkitError):
    """A step did not happen; the message says what was waited for, or what was wrong."""
