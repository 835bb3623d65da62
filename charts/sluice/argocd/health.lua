-- Health of Sluice's five kinds for Argo CD. One script for all: it looks at obj.kind.
-- Argo CD gives a script the base, table and package libraries, by require("os") dates, and no string library.
-- Unknown is never answered: it is an application's worst rank and fails hooks.
local healthy = {
  TraceDataset = "Ready",
  FineTuneRun = "Succeeded",
  EvalRun = "Succeeded",
  PromotionScorecard = "Passed",
  ShadowRollout = "Completed",
}
local failed = {
  TraceDataset = "Fresh",
  FineTuneRun = "Succeeded",
  EvalRun = "Succeeded",
  PromotionScorecard = "Passed",
}
-- A person, or time, decides what comes next.
local waiting = {
  FineTuneRun = {Queued = true},
  PromotionScorecard = {Inconclusive = true},
  ShadowRollout = {Paused = true, Inconclusive = true, NoData = true, AwaitingApproval = true},
}

local status = obj.status
if status == nil or status.observedGeneration ~= obj.metadata.generation then
  return {status = "Progressing", message = "the operator has not seen this generation yet"}
end

local conditions = {}
for _, condition in ipairs(status.conditions or {}) do
  conditions[condition.type] = condition
end
local function holds(kind, value)
  return conditions[kind] ~= nil and conditions[kind].status == value
end
local function say(kind)
  local condition = conditions[kind] or conditions["Ready"] or {}
  return condition.message or status.phase or ""
end

if obj.kind == "ShadowRollout" and holds("RolledBack", "True") then
  return {status = "Degraded", message = say("RolledBack")}
end
if holds("Stalled", "True") then
  return {status = "Degraded", message = say("Stalled")}
end
if obj.spec ~= nil and obj.spec.suspend == true then
  return {status = "Suspended", message = "spec.suspend is true"}
end
if (waiting[obj.kind] or {})[status.phase or ""] then
  return {status = "Suspended", message = say("Ready")}
end
if failed[obj.kind] ~= nil and holds(failed[obj.kind], "False") then
  return {status = "Degraded", message = say(failed[obj.kind])}
end
if healthy[obj.kind] ~= nil and holds(healthy[obj.kind], "True") then
  return {status = "Healthy", message = say(healthy[obj.kind])}
end
return {status = "Progressing", message = say("Ready")}
