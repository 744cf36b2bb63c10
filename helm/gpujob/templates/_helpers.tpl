{{- define "gpujob.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "gpujob.fullname" -}}
{{- $name := include "gpujob.name" . -}}
{{- $full := contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name) -}}
{{- .Values.fullnameOverride | default $full | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "gpujob.namespace" -}}
{{- .Values.namespaceOverride | default .Release.Namespace -}}
{{- end -}}

{{- define "gpujob.account" -}}
{{- if and (not .Values.serviceAccount.create) (not .Values.serviceAccount.name) -}}
{{- fail "serviceAccount.create is false: set serviceAccount.name to the account that exists" -}}
{{- end -}}
{{- .Values.serviceAccount.name | default (include "gpujob.fullname" .) -}}
{{- end -}}

{{- define "gpujob.server.account" -}}
{{- $account := .Values.webhook.serviceAccount -}}
{{- if and (not $account.create) (not $account.name) -}}
{{- fail "webhook.serviceAccount.create is false: set webhook.serviceAccount.name to the account that exists" -}}
{{- end -}}
{{- $name := $account.name | default (printf "%s-server" (include "gpujob.fullname" .)) -}}
{{- if eq $name (include "gpujob.account" .) -}}
{{- fail (printf "webhook.serviceAccount.name: %s is the controller's account; users can send bytes to the server, so it needs an account of its own" $name) -}}
{{- end -}}
{{- $name -}}
{{- end -}}

{{- define "gpujob.reference" -}}
{{- $image := index . 0 -}}
{{- with (index . 1).Values.global.imageRegistry | default $image.registry -}}
{{ . }}/
{{- end -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ $image.tag | default (index . 1).Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{- define "gpujob.image" -}}
{{ include "gpujob.reference" (list .Values.image .) }}
{{- end -}}

{{- define "gpujob.driver.image" -}}
{{ include "gpujob.reference" (list .Values.driver.image .) }}
{{- end -}}

{{- define "gpujob.driver" -}}
{{- $driver := omit .Values.driver "image" "affinity" "priorityClassName" "runtimeClassName" -}}
{{- include "gpujob.notOurs" (list "driver.labels" (keys $driver.labels)) -}}
{{- include "gpujob.notOurs" (list "driver.annotations" (keys $driver.annotations)) -}}
{{- if and $driver.podSecurityContext.runAsUser (not $driver.podSecurityContext.fsGroup) -}}
{{- fail "driver.podSecurityContext: set fsGroup, too, or leave runAsUser to the platform as well: a driver reads its key by that group" -}}
{{- end -}}
{{- $secrets := list -}}
{{- range $driver.imagePullSecrets -}}
{{- $secrets = append $secrets (kindIs "string" . | ternary (dict "name" .) .) -}}
{{- end -}}
{{- $_ := set $driver "imagePullSecrets" $secrets -}}
{{- range $name := list "affinity" "priorityClassName" "runtimeClassName" -}}
{{- with get $.Values.driver $name -}}
{{- $_ := set $driver $name . -}}
{{- end -}}
{{- end -}}
{{- /* The kubelet would read $(NAME) in a value. */ -}}
{{- toJson $driver | replace "$" "$$" -}}
{{- end -}}

{{- define "gpujob.notOurs" -}}
{{- range index . 1 }}
{{- if regexMatch "^(([^/]+[.])?gpujob[.]dev/.*|app[.]kubernetes[.]io/(name|component|managed-by))$" . }}
{{- fail (printf "%s: remove %s: the operator sets it itself" (index $ 0) .) }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "gpujob.selector" -}}
app.kubernetes.io/name: {{ include "gpujob.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: controller
{{- end -}}

{{- define "gpujob.server.selector" -}}
app.kubernetes.io/name: {{ include "gpujob.name" . }}
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
{{- with include "gpujob.moreLabels" (list "commonLabels" .Values.commonLabels .) }}
{{ . | trim }}
{{- end }}
{{- end -}}

{{- define "gpujob.moreLabels" -}}
{{- $common := (index . 2).Values.commonLabels -}}
{{- range $name, $value := index . 1 }}
{{- if and (ne (index $ 0) "commonLabels") (hasKey $common $name) }}
{{- fail (printf "%s: remove %s: commonLabels sets it already" (index $ 0) $name) }}
{{- end }}
{{- if or (eq $name "helm.sh/chart") (regexMatch "^app[.]kubernetes[.]io/(name|instance|component|version|managed-by)$" $name) }}
{{- fail (printf "%s: remove %s: the chart sets this label itself" (index $ 0) $name) }}
{{- end }}
{{ $name }}: {{ $value | quote }}
{{- end }}
{{- end -}}

{{- define "gpujob.driver.selector" -}}
app.kubernetes.io/managed-by: gpujob-operator
app.kubernetes.io/component: driver
{{- end -}}

{{- define "gpujob.serviceAccount" -}}
{{- $account := index . 0 -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ index . 1 }}
  namespace: {{ include "gpujob.namespace" (index . 3) }}
  labels:
    {{- index . 2 | nindent 4 }}
    {{- with include "gpujob.moreLabels" (list "serviceAccount.labels" $account.labels (index . 3)) }}
    {{- . | trim | nindent 4 }}
    {{- end }}
  {{- with $account.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
automountServiceAccountToken: {{ $account.automount }}
{{- end -}}

{{- define "gpujob.pullSecrets" -}}
{{- $names := list -}}
{{- range concat (.Values.global.imagePullSecrets | default list) .Values.imagePullSecrets -}}
{{- $names = append $names (kindIs "string" . | ternary . (get (kindIs "string" . | ternary dict .) "name")) -}}
{{- end -}}
{{- with $names | uniq -}}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end -}}
{{- end -}}

{{- define "gpujob.placement" -}}
{{- $selector := dict "matchLabels" (index . 1 | fromYaml) -}}
{{- with (index . 0).Values -}}
{{- with .topologySpreadConstraints }}
# Replicas on one machine, or in one zone, would fail together.
topologySpreadConstraints:
  {{- range . }}
  {{- $constraint := . }}
  {{- if not .labelSelector }}
  {{- $constraint = merge (dict "labelSelector" $selector "matchLabelKeys" (list "pod-template-hash")) (omit . "labelSelector" "matchLabelKeys") }}
  {{- end }}
  - {{ toYaml $constraint | nindent 4 | trim }}
  {{- end }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .dnsPolicy }}
dnsPolicy: {{ . }}
{{- end }}
{{- with .dnsConfig }}
dnsConfig:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "gpujob.probes" -}}
{{- range $probe, $path := dict "startupProbe" "/healthz" "livenessProbe" "/healthz" "readinessProbe" "/readyz" }}
{{ $probe }}:
  httpGet:
    path: {{ $path }}
    port: probes
  {{- with index $.Values $probe }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
{{- end -}}

{{- define "gpujob.extraEnv" -}}
{{- $value := index . 0 -}}
{{- $secret := (index . 2).Values.vast.existingSecret -}}
{{- range index . 1 }}
{{- if or (hasPrefix "GPUJOB_" .name) (eq "VAST_API_KEY" .name) }}
{{- fail (printf "%s: remove %s: the chart sets the operator's own variables; constants are set as limits.NAME" $value .name) }}
{{- end }}
{{- if regexMatch "^(HTTPS?|ALL|NO)_PROXY$" (upper .name) }}
{{- fail (printf "%s: remove %s: no program reads it; the proxy for the provider is vast.proxyURL" $value .name) }}
{{- end }}
{{- if and $secret (eq $secret (dig "valueFrom" "secretKeyRef" "name" "" .)) }}
{{- fail (printf "%s: remove %s: the Secret %s holds the account's API key, which must be in one variable of the controller alone" $value .name $secret) }}
{{- end }}
- {{ toYaml . | nindent 2 | trim }}
{{- end }}
{{- end -}}

{{- define "gpujob.extraVolumes" -}}
{{- $value := index . 0 -}}
{{- $secret := (index . 2).Values.vast.existingSecret -}}
{{- range index . 1 }}
{{- $named := list (dig "secret" "secretName" "" .) }}
{{- range dig "projected" "sources" list . }}
{{- $named = append $named (dig "secret" "name" "" .) }}
{{- end }}
{{- if has $secret $named }}
{{- fail (printf "%s: remove %s: the Secret %s holds the account's API key, which must be in no file" $value .name $secret) }}
{{- end }}
{{- if or (has .name (list "tmp" "provider-ca")) (hasPrefix "transport-" .name) }}
{{- fail (printf "%s: rename %s: the chart has a volume of this name" $value .name) }}
{{- end }}
- {{ toYaml . | nindent 2 | trim }}
{{- end }}
{{- end -}}

{{- define "gpujob.budget" -}}
{{- $budget := index . 0 -}}
{{- if and $budget.minAvailable $budget.maxUnavailable }}
{{- fail (printf "%s: set minAvailable or maxUnavailable, not both" (index . 1)) }}
{{- end }}
{{- if $budget.minAvailable }}
minAvailable: {{ $budget.minAvailable }}
{{- else }}
maxUnavailable: {{ eq "" (toString $budget.maxUnavailable) | ternary 1 $budget.maxUnavailable }}
{{- end }}
# A pod that is not ready does no work, so it must not block a drain.
unhealthyPodEvictionPolicy: AlwaysAllow
{{- end -}}

{{- define "gpujob.service" -}}
{{- with .Values.service.ipFamilyPolicy }}
ipFamilyPolicy: {{ . }}
{{- end }}
{{- with .Values.service.ipFamilies }}
ipFamilies:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "gpujob.port" -}}
{{- $url := urlParse . -}}
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
{{ include "gpujob.served" (list .) }}
objectSelector: {}
{{- end -}}

{{- define "gpujob.policy.injected" -}}
If an injector has added it, keep that away from driver pods by driver.labels and driver.annotations of the chart, or have it inject without privileges, as meshes do with their CNI plugin
{{- end -}}

{{- define "gpujob.policy.seLinuxTypes" -}}
['', 'container_t', 'container_init_t', 'container_kvm_t', 'container_engine_t']
{{- end -}}

{{- define "gpujob.served" -}}
{{- $more := rest . -}}
{{- with (first .).Values.jobNamespaces -}}
namespaceSelector:
  matchExpressions:
    - key: kubernetes.io/metadata.name
      operator: In
      values: {{ concat . $more | toJson }}
{{- else -}}
namespaceSelector: {}
{{- end -}}
{{- end -}}

{{- define "gpujob.jobRules" -}}
- apiGroups: [gpujob.dev]
  resources: [gpujobs]
  verbs: [get, list, watch, patch, delete]
- apiGroups: [gpujob.dev]
  resources: [gpunodes]
  verbs: [get, list, watch, create, patch, delete]
# What was learnt of how long jobs run.
- apiGroups: [gpujob.dev]
  resources: [gpujobprofiles]
  verbs: [get, list, create, update, delete]
# What jobs may cost together. Only administrators write their specs.
- apiGroups: [gpujob.dev]
  resources: [gpubudgets]
  verbs: [get, list]
- apiGroups: [gpujob.dev]
  resources: [gpujobs/status, gpunodes/status, gpubudgets/status, gpujobs/finalizers, gpunodes/finalizers]
  verbs: [update]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, create, delete]
- apiGroups: [""]
  resources: [secrets]
  verbs: [create, delete]
# The Service of a job that declares ports.
- apiGroups: [""]
  resources: [services]
  verbs: [get, create]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
{{- if .Values.kueue.enabled }}
# Kueue admits and evicts what waits in its queues by Workloads.
- apiGroups: [kueue.x-k8s.io]
  resources: [workloads]
  verbs: [list, create, patch]
- apiGroups: [kueue.x-k8s.io]
  resources: [workloads/status]
  verbs: [update]
{{- end }}
{{- end -}}

{{- define "gpujob.apiRules" -}}
- apiGroups: [gpujob.dev]
  resources: [gpujobs]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [gpujob.dev]
  resources: [gpunodes]
  verbs: [list]
# The log of a job is the log of its driver.
- apiGroups: [""]
  resources: [pods, pods/log]
  verbs: [get]
{{- end -}}

{{- define "gpujob.clientCA" -}}
{{- with .Values.webhook }}
{{- if contains "PRIVATE KEY" .clientCA }}
{{- fail "webhook.clientCA: this holds a private key; give the certificate alone, and replace the key, which stands in your values" }}
{{- end }}
{{- if and .clientCA (not (regexMatch "^\\s*(-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\\s]+-----END CERTIFICATE-----\\s*)+$" .clientCA)) }}
{{- fail "webhook.clientCA: this is no certificate in PEM: give what stands from -----BEGIN CERTIFICATE----- to -----END CERTIFICATE-----, for each authority" }}
{{- end }}
{{- if ne (empty .clientCA) (empty .clientNames) }}
{{- fail "webhook.clientCA and webhook.clientNames: set both: an authority signs for many, and a name alone proves nothing" }}
{{- end }}
{{- .clientCA | trim }}
{{- end }}
{{- end -}}
