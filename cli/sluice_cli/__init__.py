"""The command line: `sluice …` and the kubectl plugin. Each command imports what it needs, when it needs it."""
