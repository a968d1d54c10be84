"""Which part of a program cannot be pickled: the words that its author gets. Functions are pickled by value, as a script's are."""

from __future__ import annotations

import collections
import functools
import threading
import types

import pytest

from tfos_fast.cluster.launch.reserve_task import pickle_main
from tfos_fast.cluster.launch.unpicklable import culprit
from tfos_fast.cluster.spark import closure
from tfos_fast.errors import MainNotPicklable

LOCK = threading.Lock()
SETTINGS = {"rate": 0.1, "locks": [1, 2, LOCK]}
LOCK_WORDS = r" (a _thread.lock)"


def by_value(function):
    """As if it were of ``__main__``, whose functions travel by value."""
    scope = dict(globals(), __name__="__main__")
    copy = types.FunctionType(function.__code__, scope, function.__name__, function.__defaults__, function.__closure__)
    copy.__kwdefaults__ = function.__kwdefaults__
    copy.__module__ = "__main__"
    copy.__dict__.update(function.__dict__)
    for name in ("helper", "Model"):
        scope[name] = globals()[name] if name == "Model" else types.FunctionType(helper.__code__, scope, "helper")
        scope[name].__module__ = "__main__"
    return copy


def helper():
    return LOCK


class Model:
    def __init__(self):
        self.parts = {"inner": LOCK}


class Slotted:
    __slots__ = ("guard",)

    def __init__(self):
        self.guard = LOCK


def uses_global(args, ctx):
    return LOCK


def uses_in_inner_function(args, ctx):
    return [LOCK for _ in args]


def uses_settings(args, ctx):
    return SETTINGS


def calls_helper(args, ctx):
    return helper()


def has_default(args, ctx, lock=LOCK):
    return lock


def has_keyword(args, ctx, *, lock=LOCK):
    return lock


def has_attribute(args, ctx):
    return None


has_attribute.lock = LOCK


def plain(args, ctx):
    return args


def around():
    lock = threading.Lock()

    def inner(args, ctx):
        return lock

    return inner


class Recursive:
    def __init__(self):
        self.me = [self]
        self.lock = LOCK


MAINS = [
    (uses_global, "uses_global's global variable 'LOCK'"),
    (uses_in_inner_function, "uses_in_inner_function's global variable 'LOCK'"),
    (uses_settings, "uses_settings's global variable 'SETTINGS'['locks'][2]"),
    (calls_helper, "helper's global variable 'LOCK'"),
    (has_default, "the default of has_default's parameter 'lock'"),
    (has_keyword, "the default of has_keyword's parameter 'lock'"),
    (has_attribute, "has_attribute.lock"),
    (around(), "inner's outer variable 'lock'"),
]


@pytest.mark.parametrize(("main", "words"), MAINS, ids=lambda each: getattr(each, "__name__", ""))
def test_a_variable_of_main_is_named(main, words):
    assert culprit(by_value(main), None, closure.dumps)[0] == words + LOCK_WORDS


ARGS = [
    ({"a": 1, "lock": LOCK}, "args['lock']"),
    ([0] * 100_000 + [LOCK] + [0] * 100_000, "args[100000]"),
    ((1, {"x": (2, LOCK)}), "args[1]['x'][1]"),
    (Slotted(), "args.guard"),
    ({"model": Recursive()}, "args['model'].lock"),
    (functools.partial(print, LOCK), "args's arguments[0]"),
    (collections.deque([1, [LOCK]]), "args[1][0]"),
    ({LOCK: 1}, None),
]


@pytest.mark.parametrize(("args", "words"), ARGS, ids=lambda each: each if isinstance(each, str) else "")
def test_a_part_of_the_arguments_is_named(args, words):
    found, _ = culprit(plain, args, closure.dumps)
    assert found == words + LOCK_WORDS if words else found.startswith("the key <unlocked")


def test_what_can_be_pickled_has_no_culprit():
    assert culprit(by_value(plain), {"a": [1]}, closure.dumps) == ("", None)


@pytest.mark.parametrize("inner", [1, LOCK], ids=["plain", "lock"])
def test_an_object_that_refuses_by_itself_is_the_culprit(inner):
    class Refuses:
        def __init__(self):
            self.inner = inner

        def __reduce__(self):
            raise TypeError("not me")

    found, part = culprit(plain, [Refuses()], closure.dumps)
    assert isinstance(part, Refuses)
    assert found.startswith("args[0] (a ")
    assert found.endswith("Refuses)")


class Engine:
    """Pickles as a cluster's engine does, without broadcast variables."""

    def pickle(self, value):
        return closure.dumps(value), []


@pytest.mark.parametrize("main", [lambda: 1, lambda args: 1, lambda args, ctx, model: 1], ids=["none", "one", "three"])
def test_a_main_of_other_arguments_is_refused(main):
    text = r"main must be a function main\(args, ctx\); .*<lambda>\(.*\) takes other arguments$"
    with pytest.raises(MainNotPicklable, match=text):
        pickle_main(Engine(), main, None)


def decorated(args, ctx, model):
    return model


def with_model(function):
    @functools.wraps(function)
    def main(args, ctx):
        return function(args, ctx, 1)

    return main


def test_mains_that_take_two_arguments():
    for main in (plain, print, functools.partial(decorated, model=1), with_model(decorated)):
        assert pickle_main(Engine(), main, None)[0]


def test_what_refuses_and_what_helps_are_said():
    with pytest.raises(MainNotPicklable, match=r"^plain or its arguments .*: args\['lock'\] .*inside main, not around it\.$"):
        pickle_main(Engine(), plain, {"lock": LOCK})
