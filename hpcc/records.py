"""typing.NamedTuple without importing typing, which brings re, enum and contextlib along: 10 ms of a warm run's 30.

A type checker sees typing's own. At run time the classes have what is used of it: fields with defaults, keyword
arguments, methods and properties, _fields, _replace, _asdict, _make, tuple equality, hash and repr.
"""

TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import NamedTuple as NamedTuple
else:
    from _operator import itemgetter

    def _new(cls, *args, **kwargs):
        missing = len(cls._fields) - len(args)
        if kwargs or missing < 0 or missing > len(cls._tail):
            args = _bind(cls, args, kwargs)
        elif missing:
            args += cls._tail[-missing:]
        return tuple.__new__(cls, args)

    def _bind(cls, args, kwargs):
        """All values in order, or the TypeError that a function with these parameters would raise."""
        values = dict(zip(cls._fields, args, strict=False))
        if len(args) > len(cls._fields):
            raise TypeError(f"{cls.__name__} takes {len(cls._fields)} values, {len(args)} were given")
        for name, value in kwargs.items():
            if name in values or name not in cls._fields:
                problem = "twice" if name in values else "but there is no such field"
                raise TypeError(f"{cls.__name__}: {name} is given, {problem}")
            values[name] = value
        values = {**cls._field_defaults, **values}
        missing = [name for name in cls._fields if name not in values]
        if missing:
            raise TypeError(f"{cls.__name__}: {', '.join(missing)} missing")
        return [values[name] for name in cls._fields]

    def _repr(self):
        pairs = ", ".join(f"{name}={value!r}" for name, value in zip(self._fields, self, strict=True))
        return f"{type(self).__name__}({pairs})"

    def _replace(self, **values):
        if not values.keys() <= set(self._fields):
            raise ValueError(f"{type(self).__name__} has no field {', '.join(values.keys() - set(self._fields))}")
        return tuple.__new__(type(self), [values.get(name, old) for name, old in zip(self._fields, self, strict=True)])

    def _asdict(self):
        return dict(zip(self._fields, self, strict=True))

    def _getnewargs(self):
        return tuple(self)

    class _Meta(type):
        def __new__(meta, name, bases, space):
            if not bases:
                return super().__new__(meta, name, bases, space)
            annotate = space.get("__annotate_func__")  # from Python 3.14 on, without `from __future__`
            fields = tuple(annotate(1) if annotate else space.get("__annotations__", ()))
            defaults = {field: space.pop(field) for field in fields if field in space}
            getters = {field: property(itemgetter(at)) for at, field in enumerate(fields)}
            common = {
                "__slots__": (),
                "__new__": _new,
                "__repr__": _repr,
                "__getnewargs__": _getnewargs,
                "__match_args__": fields,
                "_fields": fields,
                "_field_defaults": defaults,
                "_tail": tuple(defaults.values()),  # of the last fields, as Python wants it
                "_replace": _replace,
                "_asdict": _asdict,
                "_make": classmethod(tuple.__new__),  # quick, so it does not count the values
            }
            return type(name, (tuple,), {**common, **getters, **space})

    class NamedTuple(metaclass=_Meta):
        """The base to inherit from; what comes out inherits from tuple alone."""
