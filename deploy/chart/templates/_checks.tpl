{{/* Values that must agree with each other, which a schema cannot compare; fails with both. */}}
{{- define "trainedmodel.checks" -}}
{{- range $resource := list "cpu" "memory" }}
{{- $request := index $.Values.puller.resources.requests $resource }}
{{- $limit := index $.Values.puller.resources.limits $resource }}
{{- if and $request $limit }}
{{- if gt (include "trainedmodel.amount" $request | float64) (include "trainedmodel.amount" $limit | float64) }}
{{- fail (printf "puller.resources.requests.%s=%v is more than puller.resources.limits.%s=%v: lower the request or raise the limit" $resource $request $resource $limit) }}
{{- end }}
{{- end }}
{{- end }}
{{- if include "trainedmodel.certManager" . }}
{{- $of := .Values.webhook.certificates.certManager }}
{{- if ge (include "trainedmodel.seconds" $of.renewBefore | int64) (include "trainedmodel.seconds" $of.duration | int64) }}
{{- fail (printf "webhook.certificates.certManager.renewBefore=%s is not less than webhook.certificates.certManager.duration=%s: renew earlier, or let certificates last longer" $of.renewBefore $of.duration) }}
{{- end }}
{{- end }}
{{- end }}

{{/* A quantity as a number. */}}
{{- define "trainedmodel.amount" -}}
{{- $units := dict "m" 0.001 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "Ki" 1024.0 "Mi" 1048576.0 "Gi" 1073741824.0 "Ti" 1099511627776.0 }}
{{- $text := toString . }}
{{- $unit := regexFind "[A-Za-z]+$" $text }}
{{- $number := trimSuffix $unit $text | float64 }}
{{- if $unit }}{{ mulf $number (index $units $unit) }}{{ else }}{{ $number }}{{ end }}
{{- end }}

{{/* A duration such as 2160h or 1h30m in seconds. */}}
{{- define "trainedmodel.seconds" -}}
{{- $total := 0 }}
{{- range $unit, $seconds := dict "h" 3600 "m" 60 "s" 1 }}
{{- $total = add $total (mul $seconds (regexFind (printf "[0-9]+%s" $unit) $ | trimSuffix $unit | int64)) }}
{{- end }}
{{- $total }}
{{- end }}
