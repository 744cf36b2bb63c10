{{- define "gpujob.name" -}}
{{- printf "%s" .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "gpujob.reference" -}}
{{- $image := index . 0 -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ $image.tag | default (index . 1).AppVersion }}
{{- end -}}
{{- end -}}

{{- define "gpujob.image" -}}
{{ include "gpujob.reference" (list .Values.image .Chart) }}
{{- end -}}

{{- define "gpujob.driver.image" -}}
{{ include "gpujob.reference" (list .Values.driver.image .Chart) }}
{{- end -}}

{{- define "gpujob.selector" -}}
app.kubernetes.io/name: gpujob
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: controller
{{- end -}}

{{- define "gpujob.server.selector" -}}
app.kubernetes.io/name: gpujob
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: server
{{- end -}}

{{- define "gpujob.labels" -}}
{{ include "gpujob.selector" . }}
{{ include "gpujob.commonLabels" . }}
{{- end -}}

{{- define "gpujob.server.labels" -}}
{{ include "gpujob.server.selector" . }}
{{ include "gpujob.commonLabels" . }}
{{- end -}}

{{- define "gpujob.commonLabels" -}}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- range $name, $value := .Values.commonLabels }}
{{- if or (eq $name "helm.sh/chart") (regexMatch "^app[.]kubernetes[.]io/(name|instance|component|version|managed-by)$" $name) }}
{{- fail (printf "commonLabels: remove %s: the chart sets this label itself" $name) }}
{{- end }}
{{ $name }}: {{ $value | quote }}
{{- end }}
{{- end -}}

{{- define "gpujob.driver.selector" -}}
app.kubernetes.io/managed-by: gpujob-operator
app.kubernetes.io/component: driver
{{- end -}}

{{- define "gpujob.providerPort" -}}
{{- $url := urlParse .Values.vast.url -}}
{{- regexFind ":[0-9]+$" $url.host | trimPrefix ":" | default (eq $url.scheme "https" | ternary "443" "80") -}}
{{- end -}}

{{- define "gpujob.policy.apiServer" -}}
# The API server.
- ports:
    {{- range .Values.networkPolicy.apiServer.ports }}
    - port: {{ . }}
    {{- end }}
  {{- with .Values.networkPolicy.apiServer.cidrs }}
  to:
    {{- range . }}
    - ipBlock:
        cidr: {{ . }}
    {{- end }}
  {{- end }}
{{- end -}}

{{- define "gpujob.policy.dns" -}}
# DNS: pods, or the cache on each node. Some resolvers listen on port 5353 behind their Service.
- to:
    - namespaceSelector: {}
    - ipBlock:
        cidr: 169.254.20.10/32
  ports:
    {{- range list 53 5353 }}
    - port: {{ . }}
      protocol: UDP
    - port: {{ . }}
      protocol: TCP
    {{- end }}
{{- end -}}

{{- define "gpujob.policy.matches" -}}
# The defaults of the API server, written out: without them, GitOps tools would see a difference.
matchPolicy: Equivalent
namespaceSelector: {}
objectSelector: {}
{{- end -}}
