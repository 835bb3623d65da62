"""Datasets to adapters: row reading, the pack plan, the training loop, checkpoints and the thin Ray Train adapter.

```
worker.run ─▶ ray_adapter (workers on Ray) ─▶ session (one process: fetch, load, resume, train, publish)
                                                │
                      data ─▶ plan ─▶ loop.train(plan, hooks) ─▶ checkpoint, publish
                                          │
                              recipe: model, attention, head
```

Importing this package is cheap: torch, transformers, peft and ray are imported where they are used.
"""
