{{/* Names, labels and images. */}}

{{- define "elsa.fullname" -}}
{{- $name := .Values.fullnameOverride | default (ternary .Release.Name (printf "%s-elsa" .Release.Name) (contains "elsa" .Release.Name)) -}}
{{- $name | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{/* What chooses pods; list of context and component. */}}
{{- define "elsa.selector" -}}
app.kubernetes.io/name: elsa
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{/* What every object says of itself; list of context and component. */}}
{{- define "elsa.labels" -}}
{{ include "elsa.selector" . }}
app.kubernetes.io/part-of: elsa
app.kubernetes.io/version: {{ (index . 0).Chart.AppVersion | quote }}
{{- end }}

{{/* The clients of a release, of both kinds. */}}
{{- define "elsa.clientsSelector" -}}
matchLabels:
  app.kubernetes.io/name: elsa
  app.kubernetes.io/instance: {{ .Release.Name }}
matchExpressions:
  - {key: app.kubernetes.io/component, operator: In, values: [client, node-client]}
{{- end }}

{{/* An image; list of context and repository. */}}
{{- define "elsa.image" -}}
{{- $images := (index . 0).Values.images -}}
{{- $repository := index . 1 -}}
{{- if contains "@" $repository -}}
{{ $repository }}
{{- else -}}
{{ with $images.registry }}{{ trimSuffix "/" . }}/{{ end }}{{ $repository }}:{{ $images.tag | default (index . 0).Chart.AppVersion }}
{{- end -}}
{{- end }}

{{/* host:port of the cloud, as a pod's environment says it. */}}
{{- define "elsa.cloudAddress" -}}
{{- if .Values.cloud.enabled -}}
{{ include "elsa.fullname" . }}-cloud.$(POD_NAMESPACE).svc:7400
{{- else -}}
{{ .Values.cloud.address }}
{{- end -}}
{{- end }}

{{/* Name within the cluster of the edge called as the given name, or as $(POD_NAME); list of context and name. */}}
{{- define "elsa.edgeAddress" -}}
{{ index . 1 }}.{{ include "elsa.fullname" (index . 0) }}-edge.$(POD_NAMESPACE).svc:7500
{{- end }}
