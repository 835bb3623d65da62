-- Which of the actions fits the object as it is.
local spec, status = obj.spec or {}, obj.status or {}
local actions = {}
if obj.kind == "ShadowRollout" then
  local ended = status.outcome ~= nil and status.outcome ~= ""
  actions["pause"] = {disabled = ended or spec.paused == true}
  actions["resume"] = {disabled = spec.paused ~= true}
  actions["promote"] = {disabled = status.phase ~= "AwaitingApproval"}
  actions["abort"] = {disabled = ended}
  actions["retry"] = {disabled = not ended or status.outcome == "Completed"}
elseif obj.kind ~= "PromotionScorecard" then
  actions["suspend"] = {disabled = spec.suspend == true}
  actions["resume"] = {disabled = spec.suspend ~= true}
end
if obj.kind == "TraceDataset" then
  actions["refresh"] = {disabled = spec.suspend == true}
end
return actions
