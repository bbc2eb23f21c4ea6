# Compiled only if asked for, see scripts/accelerate.py: what is declared here is a field of C instead of a slot.
# Every name in `__slots__` stands here, too, and no other.

cdef class CallNumbers:
    cdef public str prefix
    cdef public long long taken
    cdef public long long made
    cdef public bint evicted

    cpdef next(self)
    cpdef long long next_serial(self)
