"""Conversion: the result for each manifest of KServe and ModelMesh.

    TrainedModel (serving.kserve.io, serving.kubeflow.org)   a TrainedModel of this group
    InferenceService in the mode ModelMesh, Predictor        a TrainedModel: each of them is a model
    InferenceService in any other mode                       stays KServe's; a note with the labels
    Secret with credentials for KServe or ModelMesh          Secrets that are credential profiles
    any other kind of a serving project                      an error: it must be moved by hand
    anything else (ConfigMap, Namespace, ...)                left out, with a note

The results are checked by the contract's rules, so the API server accepts them. An error names the
field of the manifest, its value and the fix. The other documents are converted all the same. A note
names each setting that is lost.
"""
