"""Runs code that nobody trusts, and judges it outside.

```
Sandbox (trusted, this process)      asks, compares serialised answers with what was expected
  └─ forkserver (small, stdlib only)  one a core; clean environment, no secrets, no network
       └─ child (untrusted)           one an execution: own PID namespace, Landlock, seccomp, rlimits, no capabilities
```

The child never holds an expected answer, and its exit code and output decide nothing: what it returned is serialised,
by exact built-in type, and compared by the trusted side. An object that is equal to everything has no such type.

The forkserver imports this package without anything else of Sluice, so it must stay free of imports.
"""
