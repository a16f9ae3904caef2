"""Everything that the development kit raises on purpose.

DevkitError
    MissingTool       something must be installed first; the message says what and how
    BuildFailed       a program could not be compiled, or a server not be installed
    StartFailed       a process ended or stayed silent instead of becoming ready
    CommandFailed     kubectl answered with an error
    WaitedInVain      a condition did not become true
    PredictionFailed  a model server refused an inference request
"""


class DevkitError(Exception):
    """Base of all."""


class MissingTool(DevkitError):
    """Something must be installed first."""


class BuildFailed(DevkitError):
    """A program could not be compiled or a server not be installed."""


class StartFailed(DevkitError):
    """A process ended or stayed silent instead of becoming ready."""


class CommandFailed(DevkitError):
    """A command ended with an error; the message carries what it said."""


class WaitedInVain(DevkitError):
    """A condition did not become true within the time of a wait."""


class PredictionFailed(DevkitError):
    """A model server refused an inference request."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"HTTP {status}: {message}")
        self.status = status
        self.message = message
