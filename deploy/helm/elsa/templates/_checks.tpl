{{/* What a schema cannot say, checked before anything is rendered. */}}
{{- define "elsa.checks" -}}
{{- if and (not .Values.cloud.enabled) (not .Values.cloud.address) -}}
{{- fail "cloud.enabled is false: say in cloud.address, host:port, where the cloud is" -}}
{{- end -}}
{{- if and .Values.metrics.serviceMonitor.enabled (not .Values.metrics.enabled) -}}
{{- fail "metrics.serviceMonitor.enabled is true and there are no metrics: set metrics.enabled" -}}
{{- end -}}
{{- include "elsa.checkCounts" . -}}
{{- include "elsa.checkCertificates" . -}}
{{- include "elsa.checkOutside" . -}}
{{- if .Values.networkPolicy.enabled -}}
{{- include "elsa.checkEgress" . -}}
{{- end -}}
{{- include "elsa.checkNames" . -}}
{{- end }}

{{/* No more edges than there are certificates. */}}
{{- define "elsa.checkCounts" -}}
{{- $edges := .Values.edges -}}
{{- if gt (int $edges.replicas) (int $edges.most) -}}
{{- fail (printf "edges.replicas is %d and edges.most %d: raise edges.most" (int $edges.replicas) (int $edges.most)) -}}
{{- end -}}
{{- if and $edges.autoscaling.enabled (gt (int $edges.autoscaling.least) (int $edges.most)) -}}
{{- fail (printf "edges.autoscaling.least is %d and edges.most %d: raise edges.most" (int $edges.autoscaling.least) (int $edges.most)) -}}
{{- end -}}
{{- end }}

{{/* Everybody trusts who signed everybody's certificate; and nothing is said of certificates that nobody reads. */}}
{{- define "elsa.checkCertificates" -}}
{{- $given := .Values.certificates -}}
{{- if eq $given.from "secrets" -}}
{{- $shown := dict "issuer.name" $given.issuer.name "duration" $given.duration "renewBefore" $given.renewBefore -}}
{{- range $name, $default := dict "issuer.name" "" "duration" "2160h" "renewBefore" "720h" -}}
{{- if ne (get $shown $name) $default -}}
{{- fail (printf "certificates.%s has no effect on Secrets that you make: set certificates.from to cert-manager or csi, or leave it out" $name) -}}
{{- end -}}
{{- end -}}
{{- else if and (not .Values.cloud.enabled) (not $given.issuer.name) -}}
{{- fail (printf "the chart's own authority is not the one that the cloud at %s trusts: name its issuer in certificates.issuer.name, or take certificates.from secrets" .Values.cloud.address) -}}
{{- end -}}
{{- if not $given.issuer.name -}}
{{- range $name, $default := dict "kind" "Issuer" "group" "cert-manager.io" -}}
{{- if ne (get $given.issuer $name) $default -}}
{{- fail (printf "certificates.issuer.%s has no effect without an issuer: name it in certificates.issuer.name" $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and $given.revoked (ne $given.from "secrets") (not $given.issuer.name) -}}
{{- fail "certificates.revoked: the chart's own authority signs no list of the revoked, and servers do not start with another's: leave it out, or name in certificates.issuer.name an issuer whose authority signs the list" -}}
{{- end -}}
{{- if and $given.revoked (not .Values.cloud.enabled) (not .Values.edges.enabled) -}}
{{- fail "certificates.revoked is read by servers, and there is no server in this release: leave it out" -}}
{{- end -}}
{{- end }}

{{/* Callers outside are let in, and what is said of one way to let them in is not said of another. */}}
{{- define "elsa.checkOutside" -}}
{{- $outside := .Values.outside -}}
{{- $ports := $outside.nodePorts -}}
{{- if and $outside.enabled .Values.networkPolicy.enabled (not .Values.networkPolicy.callers) -}}
{{- fail "outside.enabled is true and nobody outside is let in: name them in networkPolicy.callers, such as {ipBlock: {cidr: 203.0.113.0/24}}" -}}
{{- end -}}
{{- if and $outside.sourceRanges (ne $outside.by "LoadBalancer") -}}
{{- fail (printf "outside.sourceRanges has no effect with outside.by %s: limit callers in networkPolicy.callers" $outside.by) -}}
{{- end -}}
{{- if and (or $ports.cloud $ports.edges) (ne $outside.by "NodePort") -}}
{{- fail (printf "outside.nodePorts has no effect with outside.by %s: set outside.by to NodePort, or leave it out" $outside.by) -}}
{{- end -}}
{{- if and $outside.ingressClassName (ne $outside.by "Ingress") -}}
{{- fail (printf "outside.ingressClassName has no effect with outside.by %s: set outside.by to Ingress, or leave it out" $outside.by) -}}
{{- end -}}
{{- if gt (len $ports.edges) (int .Values.edges.most) -}}
{{- fail (printf "outside.nodePorts.edges has %d ports and edges.most is %d: raise edges.most, or leave ports out" (len $ports.edges) (int .Values.edges.most)) -}}
{{- end -}}
{{- end }}

{{/* Who has to call somebody outside the release may. */}}
{{- define "elsa.checkEgress" -}}
{{- $egress := .Values.networkPolicy.egress -}}
{{- $cloud := .Values.cloud -}}
{{- $clients := or .Values.clients .Values.nodeClients.enabled -}}
{{- $bucket := regexMatch "://" ($cloud.settings.blobs_url | default "" | trimPrefix "file://" | trimPrefix "local://") -}}
{{- if and $cloud.enabled $cloud.database.secretName (not $egress.cloud) -}}
{{- fail "the cloud may not call its database: allow it in networkPolicy.egress.cloud" -}}
{{- end -}}
{{- if and $cloud.enabled $bucket (not $egress.cloud) -}}
{{- fail "the cloud may not call the bucket in cloud.settings.blobs_url: allow it in networkPolicy.egress.cloud" -}}
{{- end -}}
{{- if and (not $cloud.enabled) .Values.edges.enabled (not $egress.edges) -}}
{{- fail "edges may not call the cloud elsewhere: allow it in networkPolicy.egress.edges" -}}
{{- end -}}
{{- if and (not $cloud.enabled) $clients (not $egress.clients) -}}
{{- fail "clients may not call the cloud elsewhere: allow it in networkPolicy.egress.clients" -}}
{{- end -}}
{{- if and (not .Values.edges.enabled) $clients (not $egress.clients) -}}
{{- fail "clients may not call their edges elsewhere: allow it in networkPolicy.egress.clients" -}}
{{- end -}}
{{- end }}

{{/* Names are unique in a fleet. */}}
{{- define "elsa.checkNames" -}}
{{- $seen := dict -}}
{{- range $ordinal := until (int .Values.edges.most) -}}
{{- $_ := set $seen (printf "%s-edge-%d" (include "elsa.fullname" $) $ordinal) "an edge" -}}
{{- end -}}
{{- range .Values.clients -}}
{{- if hasKey $seen .name -}}
{{- fail (printf "clients: the name %s is that of %s already; names are unique in a fleet" .name (get $seen .name)) -}}
{{- end -}}
{{- $_ := set $seen .name "a client" -}}
{{- end -}}
{{- end }}
