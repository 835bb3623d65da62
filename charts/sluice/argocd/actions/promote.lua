if obj.metadata.annotations == nil then
  obj.metadata.annotations = {}
end
-- The step that waits: an approval that arrives late must not approve the next one.
obj.metadata.annotations["sluice.dev/promote"] = tostring(obj.status.step)
-- A name that an earlier approval left must not sign this one.
obj.metadata.annotations["sluice.dev/promoted-by"] = nil
return obj
