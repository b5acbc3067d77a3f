{{/*
Certificates: who has which, and how a pod gets its own.

An identity is a URI; a server's certificate carries besides the host name that callers ask for (docs/identity.md).
Files may be read by their owner, root, and by the pod's group: roles refuse a key that everyone may read.
*/}}

{{/* Volume with one node's certificate; dict of root, secret, role, name. */}}
{{- define "elsa.tlsVolume" -}}
- name: tls
{{- if eq .root.Values.certificates.from "csi" }}
  {{- include "elsa.csi" . | nindent 2 }}
{{- else }}
  secret: {secretName: {{ .secret }}, defaultMode: 0440}
{{- end }}
{{- end }}

{{/* Volume with the certificates of all edges that there may be, a folder each; with the driver, of the pod alone. */}}
{{- define "elsa.edgesTlsVolume" -}}
- name: tls
{{- if eq .Values.certificates.from "csi" }}
  {{- include "elsa.csi" (dict "root" . "role" "edge" "name" "${POD_NAME}") | nindent 2 }}
{{- else }}
  projected:
    defaultMode: 0440
    sources:
    {{- range $ordinal := until (int .Values.edges.most) }}
    {{- $edge := printf "%s-edge-%d" (include "elsa.fullname" $) $ordinal }}
      - secret:
          name: {{ $edge }}-tls
          optional: {{ eq $.Values.certificates.from "secrets" }}
          items:
            - {key: ca.crt, path: {{ $edge }}/ca.crt}
            - {key: tls.crt, path: {{ $edge }}/tls.crt}
            - {key: tls.key, path: {{ $edge }}/tls.key}
    {{- end }}
{{- end }}
{{- end }}

{{/* A certificate of cert-manager's CSI driver; dict of root, role, name. */}}
{{- define "elsa.csi" -}}
{{- $certificates := .root.Values.certificates -}}
csi:
  driver: csi.cert-manager.io
  readOnly: true
  volumeAttributes:
    csi.cert-manager.io/issuer-name: {{ include "elsa.issuerName" .root }}
    csi.cert-manager.io/issuer-kind: {{ ternary $certificates.issuer.kind "Issuer" (ne $certificates.issuer.name "") }}
    csi.cert-manager.io/issuer-group: {{ ternary $certificates.issuer.group "cert-manager.io" (ne $certificates.issuer.name "") }}
    csi.cert-manager.io/uri-sans: "elsa:{{ .role }}/{{ .name }}"
    {{- with include "elsa.serverHost" . }}
    csi.cert-manager.io/dns-names: {{ . | quote }}
    {{- end }}
    csi.cert-manager.io/key-usages: {{ include "elsa.usages" .role | fromJsonArray | join "," | quote }}
    csi.cert-manager.io/key-encoding: PKCS8
    csi.cert-manager.io/duration: {{ $certificates.duration }}
    csi.cert-manager.io/renew-before: {{ $certificates.renewBefore }}
    csi.cert-manager.io/fs-group: "10001"
{{- end }}

{{/* What a certificate of a role may be used for, as JSON. */}}
{{- define "elsa.usages" -}}
{{- $uses := dict "cloud" (list "server auth") "edge" (list "server auth" "client auth") -}}
{{- concat (list "digital signature") (get $uses . | default (list "client auth")) | toJson -}}
{{- end }}

{{/* The host name by which callers know a server; "" for who serves nobody; dict with role and name. */}}
{{- define "elsa.serverHost" -}}
{{- if eq .role "cloud" -}}
cloud.elsa.internal
{{- else if eq .role "edge" -}}
{{ .name }}.edge.elsa.internal
{{- end -}}
{{- end }}

{{- define "elsa.issuerName" -}}
{{ .Values.certificates.issuer.name | default (printf "%s-authority" (include "elsa.fullname" .)) }}
{{- end }}

{{/* A Certificate of cert-manager; dict of root, secret, role, name. */}}
{{- define "elsa.certificate" -}}
{{- $certificates := .root.Values.certificates }}
---
apiVersion: cert-manager.io/v1
kind: Certificate
metadata:
  name: {{ .secret }}
  labels: {{- include "elsa.labels" (list .root "certificates") | nindent 4 }}
spec:
  secretName: {{ .secret }}
  issuerRef:
    name: {{ include "elsa.issuerName" .root }}
    kind: {{ ternary $certificates.issuer.kind "Issuer" (ne $certificates.issuer.name "") }}
    group: {{ ternary $certificates.issuer.group "cert-manager.io" (ne $certificates.issuer.name "") }}
  commonName: {{ printf "%s %s" .role .name | trunc 64 }}
  uris: ["elsa:{{ .role }}/{{ .name }}"]
  {{- with include "elsa.serverHost" . }}
  dnsNames: [{{ . }}]
  {{- end }}
  usages: {{ include "elsa.usages" .role }}
  privateKey: {algorithm: ECDSA, size: 256, encoding: PKCS8, rotationPolicy: Always}
  duration: {{ $certificates.duration }}
  renewBefore: {{ $certificates.renewBefore }}
{{- end }}
