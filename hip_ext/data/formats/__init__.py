"""Hessian labels in other programs' files: read them as records, and write records for other programs.

for record in read_records("ts1x-val.lmdb"):
    ...
write_records("labels.xyz", records)

A module a format, listed in `FORMATS`: `matches(path)` says whether a file is of that format, `read(path)` yields its
records, with a DataError in place of one that is damaged where the next can still be read and raised where it cannot,
and `write(path, records)`, where there is one, writes a new file and returns how many records are in it.
"""

from hip_ext.data.formats.table import FORMATS, UNITS, Format, find_format, read_each, read_records, write_records

__all__ = ["FORMATS", "UNITS", "Format", "find_format", "read_each", "read_records", "write_records"]
