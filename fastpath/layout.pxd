"""Where in the tables file its sections are, how an empty one is made, and how one is read; what is in them says table.pxd."""
from libc.stdint cimport uint8_t

from .table cimport Header, Table

cdef read_header(int fd, Header* h)
cdef find_sections(Table* t, uint8_t* base, const Header* h)
