"""Data from a pickled stream that came off a socket. It is read here, opcode by opcode; no unpickler ever sees it.

Only the opcodes that ``pickle.dumps(value, 5)`` writes for data are known, and only the names in ``types.py``. Each opcode
takes no more time and memory than its own bytes allow: containers and whatever copies its arguments are charged to a budget.

===========================================  =====================================================================================
what a stream could do                       why it cannot
===========================================  =====================================================================================
call something                               a name is a key of a table; there is no import and no attribute
say a length that is not there               each length is compared with what is left of the stream
leave holes in the memo                      values get their memo numbers one by one (MEMOIZE); there is no PUT
repeat a large value in two bytes            what the memo holds is shared when it is pickled again, numbers are never in the memo;
                                             makers that copy an argument are charged for it
lists of lists of one list                   :func:`_weigh` counts a shared container as often as it can be reached
hold itself                                  the same function finds that
keys that take long to hash or to find       ``keys.py`` charges each part of a key, bounds their depth, refuses many keys of
                                             one hash, and keys whose places in the table were chosen to take long
digits as text                               numbers are binary; Decimal reads text in one pass, a Fraction's text is short
nest without end                             nothing here recurses; pickling it again refuses it; what Python itself frees by
                                             recursion (:data:`_FREED_BY_RECURSION`) has a bound for its depth
===========================================  =====================================================================================
"""

from __future__ import annotations

import collections
import decimal
import struct
from collections.abc import Iterable
from typing import Any

import numpy as np

from tfos_fast.channel.untrusted.budget import Budget, Name, Pending, Refused
from tfos_fast.channel.untrusted.keys import Keys
from tfos_fast.channel.untrusted.types import NAMES

_float = struct.Struct(">d").unpack_from
_int4 = struct.Struct("<i").unpack_from
_count4 = struct.Struct("<I").unpack_from
_count8 = struct.Struct("<Q").unpack_from

# What pickle never puts into its memo. If a stream did, two bytes would stand for any number of digits.
_NUMBERS = frozenset([int, float, bool, type(None)])
_SIMPLE = frozenset([str, bytes, bytearray, Name])
_LIST, _DICT, _SET, _TUPLE = 88, 232, 216, 56  # bytes of each, with the first items
_SET_ITEM, _DICT_ITEM = 64, 100
#: Python frees one that holds another of these by a call within a call: without a bound the stack of the process overflows.
_FREED_BY_RECURSION = (collections.deque, np.ndarray, slice)
_DEPTH = 100
#: A value may be reached so many times for each byte of the stream, and so many times beside.
_WEIGHT, _WEIGHT_ALLOWED = 64, 1 << 16


def build(stream: bytes, budget: Budget) -> Any:
    """Return the value that a stream of protocol 5 holds.

    A name, or a value that lacks its state, may be left somewhere inside: pickling the value finds it, and refuses it.

    Raises
    ------
    Refused
        It is no plain data, is damaged, or costs too much.
    """
    machine = _Machine(stream, budget)
    try:
        value = machine.run()
    except (IndexError, struct.error) as error:
        raise Refused(f"it is damaged ({error})") from None
    except (TypeError, ValueError, ArithmeticError, AttributeError, decimal.DecimalException) as error:
        raise Refused(f"it has a value that cannot be ({error!r:.200})") from None
    if machine.shared:
        _weigh(value, _WEIGHT * len(stream) + _WEIGHT_ALLOWED)
    return value


class _Machine:
    def __init__(self, stream: bytes, budget: Budget) -> None:
        self.stream = stream
        self.budget = budget
        self.at = 0
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: list[Any] = []
        self.shared = False  # a container is reached in more than one way
        self._keys: dict[int, Keys] = {}  # of containers, by their ids
        self._depths: dict[int, int] = {}  # of values that are freed by recursion, by their ids
        self._closed: set[int] = set()  # deques that are part of something

    def run(self) -> Any:
        stream, stack, memo, marks, rest = self.stream, self.stack, self.memo, self.marks, self._REST
        if stream[:1] != b"\x80" or stream[1] > 5:
            raise Refused("it is no stream of a protocol that is known")
        end, at = len(stream), 2
        while True:
            code = stream[at]
            at += 1
            if code == 0x94:  # MEMOIZE
                top = stack[-1]
                if type(top) in _NUMBERS:
                    raise Refused("a number in its memo")
                if isinstance(top, Pending):
                    top.place = len(memo)
                memo.append(top)
            elif code == 0x8C:  # SHORT_BINUNICODE
                begin, at = at + 1, at + 1 + stream[at]
                if at > end:
                    raise Refused("it ends in a text")
                stack.append(str(stream[begin:at], "utf-8", "surrogatepass"))
            elif code == 0x68:  # BINGET
                self._get(stream[at])
                at += 1
            elif code == 0x4B:  # BININT1
                stack.append(stream[at])
                at += 1
            elif code == 0x47:  # BINFLOAT
                stack.append(_float(stream, at)[0])
                at += 8
            elif code == 0x28:  # MARK
                marks.append(len(stack))
            elif code == 0x4E:  # NONE
                stack.append(None)
            elif code == 0x4D:  # BININT2
                stack.append(stream[at] | stream[at + 1] << 8)
                at += 2
            elif code == 0x4A:  # BININT
                stack.append(_int4(stream, at)[0])
                at += 4
            elif code == 0x43:  # SHORT_BINBYTES
                begin, at = at + 1, at + 1 + stream[at]
                if at > end:
                    raise Refused("it ends in a byte string")
                stack.append(stream[begin:at])
            elif code == 0x2E:  # STOP
                break
            else:
                method = rest.get(code)
                if method is None:
                    raise Refused(f"opcode {code:#04x}, which pickled data does not need")
                self.at = at
                method(self)
                at = self.at
        if at != end or len(stack) != 1 or marks:
            raise Refused("it does not end with its value")
        return stack[0]

    # ---- reading -------------------------------------------------------------------------------------------------------------

    def _take(self, count: int) -> bytes:
        begin, self.at = self.at, self.at + count
        if self.at > len(self.stream):
            raise Refused(f"it says that {count} bytes follow, and it is shorter")
        return self.stream[begin : self.at]

    def _number(self, unpack: Any, size: int) -> int:
        value: int
        (value,) = unpack(self.stream, self.at)
        self.at += size
        return value

    def _pop_mark(self) -> list[Any]:
        start = self.marks.pop()
        items = self.stack[start:]
        if start > len(self.stack):
            raise Refused("a mark without a stack")
        del self.stack[start:]
        return items

    def _get(self, number: int) -> None:
        value = self.memo[number]
        if type(value) not in _SIMPLE:
            if isinstance(value, Pending):
                raise Refused("a value that holds itself")
            self.shared = True
            if type(value) is collections.deque:
                self._closed.add(id(value))
        self.stack.append(value)

    def _long_get(self) -> None:
        self._get(self._number(_count4, 4))

    def _frame(self) -> None:
        if self._number(_count8, 8) > len(self.stream) - self.at:
            raise Refused("a frame that is longer than the stream")

    def _text4(self) -> None:
        self.stack.append(str(self._take(self._number(_count4, 4)), "utf-8", "surrogatepass"))

    def _text8(self) -> None:
        self.stack.append(str(self._take(self._number(_count8, 8)), "utf-8", "surrogatepass"))

    def _bytes4(self) -> None:
        self.stack.append(self._take(self._number(_count4, 4)))

    def _bytes8(self) -> None:
        self.stack.append(self._take(self._number(_count8, 8)))

    def _bytearray8(self) -> None:
        self.stack.append(bytearray(self._take(self._number(_count8, 8))))

    def _long1(self) -> None:
        size = self.stream[self.at]
        self.at += 1
        self.stack.append(int.from_bytes(self._take(size), "little", signed=True))

    def _long4(self) -> None:
        self.stack.append(int.from_bytes(self._take(self._number(_count4, 4)), "little", signed=True))

    def _true(self) -> None:
        self.stack.append(True)

    def _false(self) -> None:
        self.stack.append(False)

    # ---- containers ----------------------------------------------------------------------------------------------------------

    def _empty_tuple(self) -> None:
        self.stack.append(())

    def _tuple(self) -> None:
        self.budget.spend(_TUPLE)
        self.stack.append(tuple(self._pop_mark()))

    def _tuple_of(self, count: int) -> None:
        self.budget.spend(_TUPLE)
        if len(self.stack) < count:
            raise Refused("a tuple of more than there is")
        items = tuple(self.stack[-count:])
        del self.stack[-count:]
        self.stack.append(items)

    def _tuple1(self) -> None:
        self._tuple_of(1)

    def _tuple2(self) -> None:
        self._tuple_of(2)

    def _tuple3(self) -> None:
        self._tuple_of(3)

    def _empty_list(self) -> None:
        self.budget.spend(_LIST)
        self.stack.append([])

    def _empty_dict(self) -> None:
        self.budget.spend(_DICT)
        self.stack.append({})

    def _empty_set(self) -> None:
        self.budget.spend(_SET)
        self.stack.append(set())

    def _append(self) -> None:
        value = self.stack.pop()
        self._extend([value])

    def _appends(self) -> None:
        self._extend(self._pop_mark())

    def _extend(self, values: list[Any]) -> None:
        top = self.stack[-1]
        if type(top) is not list and type(top) is not collections.deque:
            raise Refused("items for what is no list")
        if type(top) is not list:
            if id(top) in self._closed:
                raise Refused("items for a deque that is part of something")
            self._nest(top, values)
        top.extend(values)

    def _nest(self, holder: Any, values: Iterable[Any]) -> None:
        """Refuse what would be freed by too many calls within each other."""
        depth = max((self._depths.get(id(value), 1) for value in values if isinstance(value, _FREED_BY_RECURSION)), default=0) + 1
        if depth > _DEPTH:
            raise Refused("it is nested too deep")
        self._depths[id(holder)] = max(depth, self._depths.get(id(holder), 1))

    def _set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._update([key], [value])

    def _set_items(self) -> None:
        items = self._pop_mark()
        self._update(items[::2], items[1::2])

    def _update(self, keys: list[Any], values: list[Any]) -> None:
        top = self.stack[-1]
        if type(top) is not dict and type(top) is not collections.OrderedDict:
            raise Refused("items for what is no dict")
        if len(keys) != len(values):
            raise Refused("a key without a value")
        self.budget.spend(_DICT_ITEM * len(keys))
        self._keys_of(top).add(keys, lambda start, stop: top.update(zip(keys[start:stop], values[start:stop], strict=True)))

    def _keys_of(self, container: Any) -> Keys:
        found = self._keys.get(id(container))
        if found is None:
            found = self._keys[id(container)] = Keys(self.budget)
        return found

    def _add_items(self) -> None:
        items, top = self._pop_mark(), self.stack[-1]
        if type(top) is not set:
            raise Refused("items for what is no set")
        self.budget.spend(_SET_ITEM * len(items))
        self._keys_of(top).add(items, lambda start, stop: top.update(items[start:stop]))

    def _frozenset(self) -> None:
        items = self._pop_mark()
        self.budget.spend(_SET + _SET_ITEM * len(items))
        unfrozen: set[Any] = set()
        Keys(self.budget).add(items, lambda start, stop: unfrozen.update(items[start:stop]))
        self.stack.append(frozenset(unfrozen))

    # ---- names ---------------------------------------------------------------------------------------------------------------

    def _name(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if type(name) is not str or type(module) is not str:
            raise Refused("a name that is no text")
        found = NAMES.get((module, name))
        if found is None:
            raise Refused(f"it is made by {module}.{name}"[:300])
        self.stack.append(found)

    def _reduce(self) -> None:
        args, name = self.stack.pop(), self.stack.pop()
        if type(name) is not Name or name.make is None or type(args) is not tuple:
            raise Refused("a call of what is no name")
        value = name.make(args, self.budget)
        if type(value) is slice:
            self._nest(value, args)
        self.stack.append(value)

    def _new(self) -> None:
        args, name = self.stack.pop(), self.stack.pop()
        if type(name) is not Name or name.new is None or args != ():
            raise Refused("an object of what is no name")
        self.stack.append(name.new())

    def _build(self) -> None:
        state, pending = self.stack.pop(), self.stack.pop()
        if not isinstance(pending, Pending):
            raise Refused("a state for what has none")
        value = pending.build(state, self.budget)
        self._keys.pop(id(state), None)  # it goes, and its id to another value
        if type(value) is np.ndarray and value.dtype == object:
            self._nest(value, state[-1])
        if pending.place >= 0:
            self.memo[pending.place] = value
        self.stack.append(value)

    _REST = {  # noqa: RUF012
        0x95: _frame, 0x58: _text4, 0x8D: _text8, 0x42: _bytes4, 0x8E: _bytes8, 0x96: _bytearray8,
        0x8A: _long1, 0x8B: _long4, 0x88: _true, 0x89: _false, 0x6A: _long_get,
        0x29: _empty_tuple, 0x85: _tuple1, 0x86: _tuple2, 0x87: _tuple3, 0x74: _tuple,
        0x5D: _empty_list, 0x61: _append, 0x65: _appends, 0x7D: _empty_dict, 0x73: _set_item, 0x75: _set_items,
        0x8F: _empty_set, 0x90: _add_items, 0x91: _frozenset,
        0x93: _name, 0x52: _reduce, 0x81: _new, 0x62: _build,
    }  # fmt: skip


def _weigh(value: Any, most: int) -> None:
    """Count the values that are reached from this one, each as often as there are ways to it.

    Raises
    ------
    Refused
        There are more than ``most``, or one holds itself.
    """
    weights: dict[int, int] = {}  # of containers that are done; 0 while one is not
    path: list[tuple[Any, list[Any]]] = [(value, list(_inside(value) or ()))]
    weights[id(value)] = 0
    kept = [value]  # so that no other value gets an id of these
    while path:
        holder, items = path[-1]
        below = None
        while items:
            item = items[-1]
            known = weights.get(id(item))
            if known is None:
                within = _inside(item)
                if within is not None:
                    below = (item, list(within))
                    break
            elif known == 0:
                raise Refused("a value that holds itself")
            items.pop()
        if below is not None:
            weights[id(below[0])] = 0
            kept.append(below[0])
            path.append(below)
            continue
        weight = 1 + sum(weights.get(id(item), 1) for item in _inside(holder) or ())
        if weight > most:
            raise Refused("a value that is shared so often that it would take far more memory anywhere else")
        weights[id(holder)] = weight
        path.pop()


def _inside(value: Any) -> Iterable[Any] | None:
    if isinstance(value, dict):
        return [*value, *value.values()]
    if isinstance(value, list | tuple | set | frozenset | collections.deque):
        return value
    if isinstance(value, slice):
        return value.start, value.stop, value.step
    if isinstance(value, np.ndarray) and value.dtype == object:
        items: list[Any] = value.reshape(-1).tolist()
        return items
    return None
