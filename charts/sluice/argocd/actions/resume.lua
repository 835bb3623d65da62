if obj.kind == "ShadowRollout" then
  obj.spec.paused = false
else
  obj.spec.suspend = false
end
return obj
