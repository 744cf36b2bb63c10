{{- define "gpujob.name" -}}
{{- printf "%s" .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "gpujob.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
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
{{- end -}}
