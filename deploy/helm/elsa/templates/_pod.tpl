{{/* What all pods have in common: restricted Pod Security, no service account's token, probes, volumes. */}}

{{/* Fields of a pod; list of context and the role's values. Service links are off: they would set ELSA_... variables. */}}
{{- define "elsa.podSpec" -}}
{{- $root := index . 0 -}}
{{- $role := index . 1 -}}
serviceAccountName: {{ include "elsa.fullname" $root }}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with $root.Values.images.pullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- with $role.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $role.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $role.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $role.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "elsa.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  privileged: false
  capabilities: {drop: [ALL]}
{{- end }}

{{/* Ports for the kubelet and for Prometheus. */}}
{{- define "elsa.ownPorts" -}}
- {name: probe, containerPort: 7480}
{{- if .Values.metrics.enabled }}
- {name: metrics, containerPort: 7490}
{{- end }}
{{- end }}

{{/* "live": the process answers and the event loop of a cloud turns; other threads that are stuck show nowhere. Without a name: it has registered with the cloud since its start, and takes work. */}}
{{- define "elsa.probes" -}}
startupProbe:
  grpc: {port: 7480, service: live}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 60
livenessProbe:
  grpc: {port: 7480, service: live}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  grpc: {port: 7480}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 3
{{- end }}

{{/* Where all containers may write, and where their certificates are. */}}
{{- define "elsa.mounts" -}}
- {name: state, mountPath: /var/lib/elsa}
- {name: temporary, mountPath: /tmp}
- {name: tls, mountPath: /etc/elsa/tls, readOnly: true}
{{- end }}

{{- define "elsa.revokedMount" -}}
{{- if .Values.certificates.revoked }}
- {name: revoked, mountPath: /etc/elsa/revoked, readOnly: true}
{{- end }}
{{- end }}

{{- define "elsa.revokedVolume" -}}
{{- with .Values.certificates.revoked }}
- name: revoked
  configMap: {name: {{ . }}}
{{- end }}
{{- end }}

{{- define "elsa.temporaryVolume" -}}
- name: temporary
  emptyDir: {sizeLimit: {{ . }}}
{{- end }}

{{/* A volume given by value, and its mount; list of name and source. */}}
{{- define "elsa.givenMount" -}}
{{- if index . 1 }}
- {name: {{ index . 0 }}, mountPath: /{{ index . 0 }}, readOnly: true}
{{- end }}
{{- end }}

{{- define "elsa.givenVolume" -}}
{{- if index . 1 }}
- name: {{ index . 0 }}
  {{- toYaml (index . 1) | nindent 2 }}
{{- end }}
{{- end }}

{{/* A claim's specification from {size, className}. */}}
{{- define "elsa.claim" -}}
accessModes: [ReadWriteOnce]
{{- with .className }}
storageClassName: {{ . }}
{{- end }}
resources: {requests: {storage: {{ .size }}}}
{{- end }}
