-- Health of a GpuJob for Argo CD. Put this under `resource.customizations.health.gpujob.dev_GpuJob` in
-- the ConfigMap argocd-cm. It decides as kstatus does, but shows Suspended as a status of its own.
local health = { status = "Progressing", message = "the operator has not processed it yet" }
if obj.metadata.deletionTimestamp ~= nil then
  health.message = "being deleted"
  return health
end
local status = obj.status
if status == nil or status.observedGeneration ~= obj.metadata.generation then
  return health
end
local by_type = {}
for _, condition in ipairs(status.conditions or {}) do
  by_type[condition.type] = condition
end
local function holds(kind)
  return by_type[kind] ~= nil and by_type[kind].status == "True"
end
local ready = by_type["Ready"]
if ready ~= nil then
  health.message = ready.reason .. ": " .. (ready.message or "")
end
if holds("Stalled") then
  health.status = "Degraded"
elseif holds("Suspended") then
  health.status = "Suspended"
elseif holds("Ready") and not holds("Reconciling") then
  health.status = "Healthy"
end
return health
