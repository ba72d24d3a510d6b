"""Control's values, which are Python's, into the fields of a record. ValueError, TypeError: they do not fit there."""
from .table cimport Config, Path

cdef fill_path(Path* p, path)
cdef fill_config(Config* c, dict config)
cdef sixteen(address)
