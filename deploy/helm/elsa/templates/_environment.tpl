{{/* The environment of a role. */}}

{{/* Who the pod is, first: later variables are made of these. */}}
{{- define "elsa.podEnv" -}}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: POD_NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
{{- end }}

{{/* What all roles listen on for the kubelet and for Prometheus. */}}
{{- define "elsa.listenEnv" -}}
- name: ELSA_PROBE_HOST
  value: {{ .Values.listen | quote }}
- name: ELSA_PROBE_PORT
  value: "7480"
{{- if .Values.metrics.enabled }}
- name: ELSA_METRICS_HOST
  value: {{ .Values.listen | quote }}
- name: ELSA_METRICS_PORT
  value: "7490"
{{- end }}
{{- end }}

{{/* Files of TLS; list of context and the folder with the certificate. */}}
{{- define "elsa.tlsEnv" -}}
- name: ELSA_TLS_CA
  value: {{ index . 1 }}/ca.crt
- name: ELSA_TLS_CERT
  value: {{ index . 1 }}/tls.crt
- name: ELSA_TLS_KEY
  value: {{ index . 1 }}/tls.key
{{- end }}

{{/* The list of revoked certificates, which servers read. */}}
{{- define "elsa.revokedEnv" -}}
{{- if .Values.certificates.revoked }}
- name: ELSA_TLS_CRL
  value: /etc/elsa/revoked/crl.pem
{{- end }}
{{- end }}

{{/* Threads follow the limit of the CPU, rounded up, unless settings say otherwise. */}}
{{- define "elsa.threadsEnv" -}}
{{- if not (hasKey . "threads") }}
- name: ELSA_THREADS
  valueFrom: {resourceFieldRef: {resource: limits.cpu, divisor: "1"}}
{{- end }}
{{- end }}

{{/* Settings by name as variables. Numbers come as floats, and a whole one must not get an exponent. */}}
{{- define "elsa.settingsEnv" -}}
{{- range $name, $value := . }}
- name: ELSA_{{ upper $name }}
{{- if kindIs "map" $value }}
  value: {{ toJson $value | quote }}
{{- else if and (kindIs "float64" $value) (eq (floor $value) $value) }}
  value: {{ printf "%d" (int64 $value) | quote }}
{{- else }}
  value: {{ toString $value | quote }}
{{- end }}
{{- end }}
{{- end }}

{{/* What a client offers to runs, and where its edges are within the cluster if others are told other addresses. */}}
{{- define "elsa.clientEnv" -}}
{{- $root := index . 0 -}}
{{- $client := index . 1 -}}
- name: ELSA_CLOUD
  value: {{ include "elsa.cloudAddress" $root }}
{{- with $client.data }}
- name: ELSA_DATA
  value: {{ toJson . | quote }}
{{- end }}
{{- with $client.heldout }}
- name: ELSA_HELDOUT
  value: {{ toJson . | quote }}
{{- end }}
{{- if and $root.Values.edges.enabled $root.Values.outside.enabled $root.Values.outside.advertise }}
{{- $addresses := dict }}
{{- range $ordinal := until (int $root.Values.edges.most) }}
{{- $edge := printf "%s-edge-%d" (include "elsa.fullname" $root) $ordinal }}
{{- $_ := set $addresses $edge (include "elsa.edgeAddress" (list $root $edge)) }}
{{- end }}
- name: ELSA_EDGE_ADDRESSES
  value: {{ toJson $addresses | quote }}
{{- end }}
{{- include "elsa.threadsEnv" $client.settings }}
{{- include "elsa.settingsEnv" $client.settings }}
{{- end }}
