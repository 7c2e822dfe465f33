{{- define "mailarray.name" -}}
{{- if contains "mailarray" .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ else }}{{ printf "%s-mailarray" .Release.Name | trunc 40 | trimSuffix "-" }}{{ end -}}
{{- end }}

{{- define "mailarray.operator" -}}
{{ include "mailarray.name" . }}-operator
{{- end }}

{{- define "mailarray.serviceAccount" -}}
{{- if .Values.serviceAccount.name }}{{ .Values.serviceAccount.name }}{{ else if .Values.serviceAccount.create }}{{ include "mailarray.operator" . }}{{ else }}default{{ end -}}
{{- end }}

{{- define "mailarray.selector" -}}
app.kubernetes.io/name: mailarray-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "mailarray.labels" -}}
{{ include "mailarray.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: mailarray
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "mailarray.image" -}}
{{ .image.repository }}:{{ .image.tag | default .root.Chart.AppVersion }}
{{- end }}

{{- /* Namespaces with MailClusters, as a JSON list under `namespaces`; empty for all. */ -}}
{{- define "mailarray.namespaces" -}}
{{- if .Values.clusterWide }}{{ dict "namespaces" (list) | toJson }}{{ else }}{{ dict "namespaces" (.Values.watchNamespaces | default (list .Release.Namespace) | uniq | sortAlpha) | toJson }}{{ end -}}
{{- end }}

{{- /* The namespace that hints and the test speak of. */ -}}
{{- define "mailarray.testNamespace" -}}
{{- $watched := (include "mailarray.namespaces" . | fromJson).namespaces -}}
{{- .Values.test.namespace | default (first $watched) | default .Release.Namespace -}}
{{- end }}

{{- /* What the operator does to the objects in a namespace with MailClusters, and no more. */ -}}
{{- define "mailarray.rules" -}}
# The user's resources are read. Written are their status, and the count of servers that somebody asked of a StatefulSet.
- apiGroups: [mailarray.io]
  resources: [mailclusters, mailservers, mirrorpairs]
  verbs: [get, list, watch]
- apiGroups: [mailarray.io]
  resources: [mailservers]
  verbs: [patch]
- apiGroups: [mailarray.io]
  resources: [mailclusters/status, mailservers/status, mirrorpairs/status]
  verbs: [get, patch]
# What they are rendered to. StatefulSets are never deleted: their servers hold mail.
- apiGroups: [apps]
  resources: [statefulsets, deployments]
  verbs: [get, list, watch, create, patch]
- apiGroups: [""]
  resources: [services, configmaps]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch, delete]
# MX records, for ExternalDNS. The kind may not be installed; that is no error.
- apiGroups: [externaldns.k8s.io]
  resources: [dnsendpoints]
  verbs: [get, list, create, patch, delete]
# The operator makes two Secrets and watches those that a MailCluster names; it changes and deletes none.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, list, watch, create]
# Restarts, one pod at a time.
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, delete]
- apiGroups: [""]
  resources: [pods/eviction]
  verbs: [create]
# Volumes grow. They are never deleted: the right to is not even asked for.
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [get, list, watch, patch]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end }}
