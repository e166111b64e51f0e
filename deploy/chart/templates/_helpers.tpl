{{- define "netwright.namespace" -}}
{{- if .Values.namespace }}{{ .Values.namespace }}
{{- else if eq .Release.Namespace "default" }}nmstate
{{- else }}{{ .Release.Namespace }}{{ end }}
{{- end }}

{{- define "netwright.image" -}}
{{- with .Values.image }}
{{- if .digest }}{{ .repository }}@{{ .digest }}
{{- else }}{{ .repository }}:{{ default $.Chart.AppVersion .tag }}{{ end }}
{{- end }}
{{- end }}

{{/* more flags for a role */}}
{{- define "netwright.verbosity" -}}
{{- if eq .Values.logLevel "debug" }}- -v{{ else if eq .Values.logLevel "trace" }}- -vv{{ end }}
{{- end }}

{{/* A manifest of the kustomize base as it is, in this release's namespace: (list . "base/rbac.yaml") */}}
{{- define "netwright.manifest" -}}
{{- $root := index . 0 -}}
{{- $text := required (printf "%s is missing from the chart" (index . 1)) ($root.Files.Get (index . 1)) -}}
{{- regexReplaceAll "namespace: nmstate\\b" $text (printf "namespace: %s" (include "netwright.namespace" $root)) }}
{{- end }}
