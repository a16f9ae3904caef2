{{/* The labels of every object; call with (dict "root" $ "more" (dict ...)). */}}
{{- define "trainedmodel.labels" -}}
{{- range $key, $value := .more }}
{{ $key }}: {{ $value | quote }}
{{- end }}
app.kubernetes.io/part-of: trainedmodel
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- range $key, $value := .root.Values.commonLabels }}
{{ $key }}: {{ $value | quote }}
{{- end }}
{{- end }}

{{/*
Name, place, labels and annotations of an object; call with a dict of "root", "name", and what it
has of "cluster" (true: no namespace), "namespace", "labels", "annotations".
*/}}
{{- define "trainedmodel.metadata" -}}
metadata:
  name: {{ .name }}
  {{- if not .cluster }}
  namespace: {{ .namespace | default .root.Release.Namespace }}
  {{- end }}
  labels:
    {{- include "trainedmodel.labels" (dict "root" .root "more" .labels) | trim | nindent 4 }}
  {{- with merge (dict) (.annotations | default dict) .root.Values.commonAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}

{{/* What selects the operator's pods. Fixed: Services, policies and rules go by it. */}}
{{- define "trainedmodel.selector" -}}
app.kubernetes.io/name: trainedmodel-operator
{{- end }}

{{/* An image's full name, by digest if there is one. */}}
{{- define "trainedmodel.image" -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag }}
{{- end -}}
{{- end }}

{{/* Who the operator is, in a RoleBinding or ClusterRoleBinding. */}}
{{- define "trainedmodel.subjects" -}}
subjects:
  - kind: ServiceAccount
    name: {{ .Values.serviceAccount.name }}
    namespace: {{ .Release.Namespace }}
{{- end }}

{{/* Whether the webhook's certificates are the operator's own making. */}}
{{- define "trainedmodel.selfMade" -}}
{{- if and .Values.webhook.enabled (eq .Values.webhook.certificates.by "operator") }}true{{ end -}}
{{- end }}

{{/* Whether they are cert-manager's. */}}
{{- define "trainedmodel.certManager" -}}
{{- if and .Values.webhook.enabled (eq .Values.webhook.certificates.by "cert-manager") }}true{{ end -}}
{{- end }}
