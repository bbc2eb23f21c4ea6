# See event_loop.pxd.

cimport cython

from durasleep.runtime.event_loop cimport CallNumbers

cdef class Journal:
    cdef public object owner, codec, loop, trace, handed_out
    cdef public long long payload_bytes, open_calls, _matched
    cdef public dict _marks, _patches, _entries, _asked, _wanted, _running
    cdef public set _buried
    cdef public dict channels
    cdef public list _stopped
    cdef public object _listened, forgotten, unawaited

    cpdef load(self, entries)
    cpdef feed(self, entry)
    cpdef check_all_asked(self)
    @cython.locals(numbers=CallNumbers)
    cpdef enter(self, future, kind, name, type_hint, make, given_id=*)
    cpdef ask(self, number, kind, name, asked, make)
    cpdef _want(self, number, make)
    cpdef mark(self, kind, name)
    cpdef publish(self, op)
    cpdef take_difference(self)
    @cython.locals(entries=double, carried=double)
    cpdef double filled(self, entries_max, bytes_max)
    cpdef forget(self)
