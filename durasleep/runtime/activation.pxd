# See event_loop.pxd.

cimport cython

from durasleep.runtime.journal cimport Journal

cdef class Activation:
    cdef public object _definition, _info, _args, codec, _settings, _unseen, _loop, seen_number, last_op_number
    cdef public Journal _journal
    cdef public double _fill_before
    cdef public long long _base, seen

    cpdef _call(self)
    cpdef _feed(self, list settled)
    cpdef _ran_away(self)
    cpdef bint _is_over(self)
    @cython.locals(journal=Journal, filled=double)
    cpdef _progress(self)
    cpdef _ended(self, outcome)
    cpdef _result(self)
