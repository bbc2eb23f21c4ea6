"""What a function says of its parameters, also where a type hint has a name that is not known while it runs.

Since Python 3.14 annotations are read when somebody asks for them, and asking raises NameError for a name that is only
imported for type checkers. Before, such a name is a text or an error at the definition.
"""

from __future__ import annotations

import inspect
import sys
from typing import Any

if sys.version_info >= (3, 14):
    import annotationlib

    def signature_of(fn: Any) -> inspect.Signature:
        """The signature of a function; an annotation that cannot be read is a ForwardRef."""
        return inspect.signature(fn, annotation_format=annotationlib.Format.FORWARDREF)

    def annotations_of(fn: Any) -> dict[str, Any]:
        """The annotations of a function or class; one that cannot be read is a ForwardRef."""
        return annotationlib.get_annotations(fn, format=annotationlib.Format.FORWARDREF)

else:

    def signature_of(fn: Any) -> inspect.Signature:
        """The signature of a function; an annotation may be a text."""
        return inspect.signature(fn)

    def annotations_of(fn: Any) -> dict[str, Any]:
        """The annotations of a function or class; one of them may be a text."""
        return getattr(fn, "__annotations__", {})
