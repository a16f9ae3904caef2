"""Multi Model Server: TorchServe's ancestor, in use where many models share a container."""

from trainedmodel_devkit.servers.java import JavaServer


class MultiModelServer(JavaServer):
    """Launcher of Multi Model Server."""

    kind = "mms"
    _package = "mms"
    _main = "com.amazonaws.ml.mms.ModelServer"
    _prefix = "MMS"
