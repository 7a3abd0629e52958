{{- /* Parts of the manifests. Names are fixed, as in k8s/base: one server has the ports of a machine. */ -}}

{{- define "bootfarm.image" -}}
{{- $image := .Values.image -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ $image.tag }}
{{- end -}}
{{- end -}}

{{- define "bootfarm.healthcheck" -}}
command: ["bootfarm", "healthcheck", "--config", "/etc/bootfarm/farm.yaml"]
{{- end -}}
