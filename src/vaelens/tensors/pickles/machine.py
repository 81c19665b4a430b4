"""The machine that reads a pickle: each opcode by its meaning for data, none by running anything.

Python's pickletools describes the opcodes. Names become what `named_globals.py` says; what is called is one of the
known constructors or a placeholder, whose results are placeholders. Stack and memo hold data and placeholders alone.
"""

from collections.abc import Callable, Mapping
from typing import cast

from vaelens.json_reading import quoted
from vaelens.tensors.pickles import constructors, literals
from vaelens.tensors.pickles.budget import Budget
from vaelens.tensors.pickles.byte_source import ByteSource
from vaelens.tensors.pickles.named_globals import placeholder, resolve
from vaelens.tensors.pickles.refusals import UnsafePickleError, WrongPickleError
from vaelens.tensors.pickles.values import (
    DType,
    Getattr,
    Inert,
    Known,
    Members,
    NumpyDType,
    StorageView,
    StoredTensor,
    Table,
)

NEWEST_PROTOCOL = 5
STOP = ord(".")
MOST_INDEX = 2**32  # of the memo, as its binary opcodes have it
EXTENSIONS = {0x82: 1, 0x83: 2, 0x84: 4}  # opcodes of the process' own registry of names: bytes of the code

HIDDEN_NAME = f"uses {Getattr.name} without writing the attribute's name"

LoadPersistent = Callable[[object], object]


class Machine:
    """Runs over one pickle after another of a file; the memo is each one's own.

    `met` collects the names that became placeholders; `load_persistent` turns persistent ids into storages.
    """

    def __init__(self, source: ByteSource, budget: Budget, met: dict[str, None], load_persistent: LoadPersistent):
        self._source = source
        self._budget = budget
        self._met = met
        self._load_persistent = load_persistent
        self._stack: list[object] = []
        self._below: list[list[object]] = []  # the stacks under each mark
        self._memo: dict[int, object] = {}
        self._operations = self._all_operations()

    def read(self) -> object:
        """The object of the next pickle. Raises WrongPickleError, and UnsafePickleError for what could run code."""
        self._stack, self._below, self._memo = [], [], {}
        source, step, spend = self._source, self._budget.step, self._budget.spend
        while True:
            step()
            opcode = source.byte()
            literal = literals.LITERALS.get(opcode)
            if literal is not None:
                value = literal(source)
                spend(literals.memory_of(value))
                self._stack.append(value)
            elif opcode == STOP:
                return self._pop()
            else:
                operation = self._operations.get(opcode)
                if operation is None:
                    raise self._unknown(opcode)
                operation()

    def _unknown(self, opcode: int) -> Exception:
        if opcode in EXTENSIONS:
            return UnsafePickleError(f"asks for extension {self._source.unsigned(EXTENSIONS[opcode])} of copyreg")
        return WrongPickleError(f"byte {self._source.at - 1:,} isn't an opcode of a pickle (0x{opcode:02x})")

    # The stack.

    def _pop(self) -> object:
        if not self._stack:
            raise WrongPickleError("an opcode in it finds the stack empty")
        return self._stack.pop()

    def _top(self) -> object:
        if not self._stack:
            raise WrongPickleError("an opcode in it finds the stack empty")
        return self._stack[-1]

    def _mark(self) -> None:
        self._budget.spend(80)
        self._below.append(self._stack)
        self._stack = []

    def _since_mark(self) -> list[object]:
        if not self._below:
            raise WrongPickleError("an opcode in it finds no mark")
        found, self._stack = self._stack, self._below.pop()
        return found

    def _pop_to_mark(self) -> None:
        self._since_mark()

    def _pop_or_mark(self) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self._since_mark()

    def _duplicate(self) -> None:
        self._budget.spend(8)
        self._stack.append(self._top())

    def _push(self, value: object, memory: int) -> None:
        self._budget.spend(memory)
        self._stack.append(value)

    def _protocol(self) -> None:
        version = self._source.byte()
        if version > NEWEST_PROTOCOL:
            raise WrongPickleError(f"it is a pickle of protocol {version}, later than {NEWEST_PROTOCOL}")

    def _frame(self) -> None:
        length, left = self._source.unsigned(8), self._source.end - self._source.at
        if length > left:
            raise WrongPickleError(f"it is incomplete: a frame of {length:,} bytes, of {left:,}")

    # The memo.

    def _put(self, index: int) -> None:
        if not 0 <= index < MOST_INDEX:
            raise WrongPickleError(f"an index of its memo is {quoted(index)}")
        self._budget.spend(130)
        self._memo[index] = self._top()

    def _get(self, index: int) -> None:
        if index not in self._memo:
            raise WrongPickleError(f"its memo has nothing at {quoted(index)}")
        self._push(self._memo[index], 8)

    def _line_index(self) -> int:
        return literals.parsed_integer(self._source.line())

    # Containers.

    def _tuple(self, length: int) -> None:
        if len(self._stack) < length:
            raise WrongPickleError("an opcode in it finds the stack empty")
        held = tuple(_data(self._stack[-length:]))
        del self._stack[-length:]
        self._push(held, 48 + 8 * length)

    def _tuple_since_mark(self) -> None:
        held = _data(self._since_mark())
        self._push(tuple(held), 48 + 8 * len(held))

    def _list_since_mark(self) -> None:
        held = _data(self._since_mark())
        self._push(held, 64 + 8 * len(held))

    def _members_since_mark(self) -> None:
        held = _data(self._since_mark())
        self._push(Members(held), 128 + 8 * len(held))

    def _table_since_mark(self) -> None:
        items, table = self._since_mark(), Table()
        self._fill(table, items)
        self._push(table, 180)

    def _append(self, values: list[object]) -> None:
        target = self._top()
        self._budget.spend(16 * len(_data(values)))
        if isinstance(target, list):
            cast("list[object]", target).extend(values)
        elif isinstance(target, Members):
            target.values.extend(values)
        elif not isinstance(target, Inert):
            raise WrongPickleError("something in it is appended to what isn't a list")

    def _set_items(self, items: list[object]) -> None:
        target = self._top()
        if isinstance(target, Inert):
            if target.items is None:
                self._budget.spend(180)
                target.items = Table()
            target = target.items
        if not isinstance(target, Table):
            raise WrongPickleError("an item in it is set in what isn't a mapping")
        self._fill(target, items)

    def _fill(self, table: Table, items: list[object]) -> None:
        if len(items) % 2:
            raise WrongPickleError("a key in it has no value")
        self._budget.spend(60 * len(_data(items)))
        for key, value in zip(items[::2], items[1::2], strict=True):
            table.put(key, value)

    def _set_item(self) -> None:
        value, key = self._pop(), self._pop()
        self._set_items([key, value])

    # Names and calls.

    def _resolve(self, module: object, name: object) -> Known | DType | Getattr | Inert:
        if not isinstance(module, str) or not isinstance(name, str):
            raise WrongPickleError("a name in it isn't a string")
        self._budget.spend(400)
        return resolve(module, name, self._met)

    def _global(self) -> None:
        module, name = (self._source.line().decode("utf-8", "replace") for _ in range(2))
        self._stack.append(self._resolve(module, name))

    def _stack_global(self) -> None:
        name, module = self._pop(), self._pop()
        self._stack.append(self._resolve(module, name))

    def _call(self, called: object, arguments: object) -> None:
        if not isinstance(arguments, tuple):
            raise WrongPickleError("the arguments of a call in it aren't a tuple")
        held = cast("tuple[object, ...]", arguments)
        if isinstance(called, (Inert, Getattr)):
            self._push(Inert(called.name) if isinstance(called, Inert) else self._attribute(held), 120)
            return
        if not isinstance(called, Known):
            raise WrongPickleError("something in it is called that can't be")
        self._budget.spend(constructors.work_on(held))
        try:
            built = called.build(held)
        except (ValueError, TypeError) as error:
            if isinstance(error, WrongPickleError):
                raise
            raise WrongPickleError(f"the arguments of {called.name} in it don't fit") from None
        self._push(built, constructors.memory_of(built))

    def _attribute(self, arguments: tuple[object, ...]) -> Inert:
        """What getattr gives. With a default it could give that, whatever the name; no program writes one."""
        if len(arguments) != 2 or not isinstance(arguments[1], str):
            raise UnsafePickleError(HIDDEN_NAME)
        owner = arguments[0]
        name = owner.name if isinstance(owner, (Inert, Known)) else "builtins"
        return placeholder(f"{name}.{arguments[1]}", self._met)

    def _reduce(self) -> None:
        arguments, called = self._pop(), self._pop()
        self._call(called, arguments)

    def _new_with_keywords(self) -> None:
        keywords, arguments, called = self._pop(), self._pop(), self._pop()
        if not isinstance(keywords, Table):
            raise WrongPickleError("the named arguments of a call in it aren't a mapping")
        self._call(called, arguments)

    def _instance(self) -> None:
        module, name = (self._source.line().decode("utf-8", "replace") for _ in range(2))
        arguments = tuple(_data(self._since_mark()))
        self._call(self._resolve(module, name), arguments)

    def _object(self) -> None:
        held = self._since_mark()
        if not held:
            raise WrongPickleError("an object in it has no class")
        self._call(held[0], tuple(_data(held[1:])))

    def _build(self) -> None:
        """The state of an object: left out, but for a numpy dtype's byte order. Mappings have attributes too."""
        (state,), target = _data([self._pop()]), self._top()
        if isinstance(target, NumpyDType):
            order = cast("tuple[object, ...]", state)[1] if isinstance(state, tuple) and len(state) > 1 else None  # pyright: ignore[reportUnknownArgumentType]
            target.order = ">" if order == ">" else "<"
        elif not isinstance(target, (Inert, Table, StoredTensor, Members, list)):
            raise WrongPickleError("something in it is given a state that can't have one")

    def _persistent(self) -> None:
        found = self._load_persistent(self._pop())
        self._push(found, 320 if isinstance(found, StorageView) else 8)

    def _persistent_line(self) -> None:
        self._source.line()
        raise WrongPickleError("it names a storage in a form that PyTorch doesn't write")

    def _all_operations(self) -> Mapping[int, Callable[[], None]]:
        """What each opcode that isn't a literal does."""
        source = self._source
        return {
            ord("("): self._mark,
            ord("0"): self._pop_or_mark,
            ord("1"): self._pop_to_mark,
            ord("2"): self._duplicate,
            0x80: self._protocol,
            0x95: self._frame,
            ord("p"): lambda: self._put(self._line_index()),
            ord("q"): lambda: self._put(source.byte()),
            ord("r"): lambda: self._put(source.unsigned(4)),
            0x94: lambda: self._put(len(self._memo)),
            ord("g"): lambda: self._get(self._line_index()),
            ord("h"): lambda: self._get(source.byte()),
            ord("j"): lambda: self._get(source.unsigned(4)),
            ord("]"): lambda: self._push([], 64),
            ord("}"): lambda: self._push(Table(), 180),
            0x8F: lambda: self._push(Members([]), 128),
            ord("t"): self._tuple_since_mark,
            0x85: lambda: self._tuple(1),
            0x86: lambda: self._tuple(2),
            0x87: lambda: self._tuple(3),
            ord("l"): self._list_since_mark,
            ord("d"): self._table_since_mark,
            0x91: self._members_since_mark,
            ord("a"): lambda: self._append([self._pop()]),
            ord("e"): lambda: self._append(self._since_mark()),
            0x90: lambda: self._append(self._since_mark()),
            ord("s"): self._set_item,
            ord("u"): lambda: self._set_items(self._since_mark()),
            ord("c"): self._global,
            0x93: self._stack_global,
            ord("R"): self._reduce,
            0x81: self._reduce,  # NEWOBJ: a class and its arguments
            0x92: self._new_with_keywords,
            ord("i"): self._instance,
            ord("o"): self._object,
            ord("b"): self._build,
            ord("Q"): self._persistent,
            ord("P"): self._persistent_line,
        }


def _data(held: list[object]) -> list[object]:
    """What an object may hold, or a call be given. Raises UnsafePickleError for getattr."""
    if any(isinstance(one, Getattr) for one in held):
        raise UnsafePickleError(HIDDEN_NAME)
    return held
