"""SquashFS 4.0: reader and writer, one file per on-disk table.

```
superblock | data blocks and fragment blocks | inode table | directory table
           | fragment table | export table | id table | xattr table | padding
```

`writer.encode_tables` makes every table of an image whose data somebody else has placed;
`reader.open_squashfs` reads an image lazily. All is pure: bytes in, bytes out. This file imports
nothing, so that a reader of one table pays for no other.
"""
