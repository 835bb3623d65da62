"""kopf handlers: parse, make one call, end. One module a kind."""
