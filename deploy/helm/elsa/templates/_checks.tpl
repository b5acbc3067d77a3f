{{/* What a schema cannot say, checked before anything is rendered. */}}
{{- define "elsa.checks" -}}
{{- $values := .Values -}}
{{- $edges := $values.edges -}}
{{- if and (not $values.cloud.enabled) (not $values.cloud.address) -}}
{{- fail "cloud.enabled is false: say in cloud.address, host:port, where the cloud is" -}}
{{- end -}}
{{- if gt (int $edges.replicas) (int $edges.most) -}}
{{- fail (printf "edges.replicas is %d and edges.most %d: raise edges.most" (int $edges.replicas) (int $edges.most)) -}}
{{- end -}}
{{- if and $edges.autoscaling.enabled (gt (int $edges.autoscaling.least) (int $edges.most)) -}}
{{- fail (printf "edges.autoscaling.least is %d and edges.most %d: raise edges.most" (int $edges.autoscaling.least) (int $edges.most)) -}}
{{- end -}}
{{- if and $values.outside.enabled $values.networkPolicy.enabled (not $values.networkPolicy.callers) -}}
{{- fail "outside.enabled is true and nobody outside is let in: name them in networkPolicy.callers, such as {ipBlock: {cidr: 203.0.113.0/24}}" -}}
{{- end -}}
{{- $seen := dict -}}
{{- range $ordinal := until (int $edges.most) -}}
{{- $_ := set $seen (printf "%s-edge-%d" (include "elsa.fullname" $) $ordinal) "an edge" -}}
{{- end -}}
{{- range $values.clients -}}
{{- if hasKey $seen .name -}}
{{- fail (printf "clients: the name %s is that of %s already; names are unique in a fleet" .name (get $seen .name)) -}}
{{- end -}}
{{- $_ := set $seen .name "a client" -}}
{{- end -}}
{{- end }}
