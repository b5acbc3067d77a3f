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
{{- if and $values.outside.sourceRanges (ne $values.outside.by "LoadBalancer") -}}
{{- fail (printf "outside.sourceRanges has no effect with outside.by %s: limit callers in networkPolicy.callers" $values.outside.by) -}}
{{- end -}}
{{- if and $values.metrics.serviceMonitor.enabled (not $values.metrics.enabled) -}}
{{- fail "metrics.serviceMonitor.enabled is true and there are no metrics: set metrics.enabled" -}}
{{- end -}}
{{- if $values.networkPolicy.enabled -}}
{{- $egress := $values.networkPolicy.egress -}}
{{- if and $values.cloud.enabled $values.cloud.database.secretName (not $egress.cloud) -}}
{{- fail "the cloud may not call its database: allow it in networkPolicy.egress.cloud" -}}
{{- end -}}
{{- if and (not $values.cloud.enabled) $edges.enabled (not $egress.edges) -}}
{{- fail "edges may not call the cloud elsewhere: allow it in networkPolicy.egress.edges" -}}
{{- end -}}
{{- if and (not $values.cloud.enabled) (or $values.clients $values.nodeClients.enabled) (not $egress.clients) -}}
{{- fail "clients may not call the cloud elsewhere: allow it in networkPolicy.egress.clients" -}}
{{- end -}}
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
