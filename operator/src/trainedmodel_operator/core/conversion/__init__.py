"""Conversion: what manifests of KServe and ModelMesh become here, and what cannot come along.

    TrainedModel (serving.kserve.io, serving.kubeflow.org)   a TrainedModel of ours
    InferenceService in the mode ModelMesh, Predictor        a TrainedModel: each of them is a model
    InferenceService in any other mode                       stays KServe's; a note what to label
    Secret with credentials for KServe or ModelMesh          Secrets that are credential profiles
    any other kind of a serving project                      an error: it has to be moved by hand
    anything else (ConfigMap, Namespace, ...)                left out, with a note

What is made is checked by the contract's rules, so nothing comes out that the API server would
refuse. An error names the field of the manifest, its value and what to do; the other documents are
converted all the same. What is lost on the way is a note.
"""
