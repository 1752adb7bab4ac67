"""Our own decode pass over the weights of a Llama-like model: static cache, compiled blocks, one CUDA graph a step.

Shapes: B rows that are completed at once, P tokens of the longest prompt, S places of the cache, H hidden, N heads,
K heads of keys and values, D numbers a head, V vocabulary, C new tokens at most. Each row begins at place 0 of the
cache and has its own position, so there is no padding that attention would have to mask.
"""
