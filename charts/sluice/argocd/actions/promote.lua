if obj.metadata.annotations == nil then
  obj.metadata.annotations = {}
end
-- The step that waits: an approval that arrives late must not approve the next one.
obj.metadata.annotations["sluice.dev/promote"] = tostring(obj.status.step)
return obj
