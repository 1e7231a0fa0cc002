"""SIF, the Singularity Image Format: reader and deterministic writer.

```
0      header, 128 bytes                      header.py
4096   descriptors, 48 of 585 bytes           descriptor.py
32176  objects, each at its alignment
```

`load.load` reads header and descriptors of a file, `create.layout` makes them for a new one. `edit` adds, deletes and
chooses the primary partition in an open file, by the values of `table`; `extra` says what descriptors tell by type.
This file imports nothing: each run of a container loads a SIF.
"""
