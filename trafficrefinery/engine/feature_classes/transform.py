"""Feature classes as functions on records: the source of a method, rewritten so that Numba compiles it.

Numba knows neither `self.helper()` nor `self.CONSTANT` on a record. So a method becomes a function named
`Class_method(self, …)`; a parameter or constant becomes its value; a field that is read becomes an int64 or float64;
`self.x += 1` becomes an assignment; `return Output(…)` becomes assignments to an output record, and any other output
NamedTuple a tuple.
"""

from __future__ import annotations

import ast
import builtins
import functools
import inspect
import linecache
import sys
import textwrap
from collections.abc import Callable
from types import FunctionType
from typing import Any

import numpy as np

from trafficrefinery import api
from trafficrefinery.api import ArrayField, FeatureClass, Packet, Struct, parameters, state_fields
from trafficrefinery.api.outputs import is_output, parts
from trafficrefinery.errors import FeatureError, did_you_mean

from .fields import output_fields
from .key import lasting_name
from .outputs import OutputRewriter

_REFUSED = {
    ast.Try: "try", ast.With: "with", ast.Lambda: "lambda", ast.Yield: "yield", ast.Raise: "raise",
    ast.Assert: "assert", ast.Delete: "del",
    ast.ListComp: "a list comprehension", ast.DictComp: "a dict comprehension", ast.SetComp: "a set comprehension",
    ast.GeneratorExp: "a generator", ast.Dict: "a dict", ast.Set: "a set", ast.JoinedStr: "an f-string",
    ast.Import: "import", ast.ImportFrom: "import", ast.Global: "global", ast.List: "a list",
    ast.FunctionDef: "a nested function", ast.ClassDef: "a nested class",
}  # fmt: skip
_BUILTINS = {"min", "max", "abs", "int", "float", "bool", "range", "len", "round"}
_API_FUNCTIONS = {"seq_diff", "seq_lt", "sqrt", "isnan", "isfinite"}


class ClassFunctions:
    """The functions that some classes need, in an order in which each is defined before it is called."""

    def __init__(self) -> None:
        self.functions: list[tuple[ast.FunctionDef, str]] = []  # definition, and where it comes from
        self._names: dict[Any, str] = {}
        self._open: set[Any] = set()

    def struct_name(self, cls: type[Struct]) -> str:
        """A name for a class with its parameters, unique in this program."""
        key = ("struct", cls)
        if key not in self._names:
            taken = sum(1 for kind, other in self._names if kind == "struct" and other.__name__ == cls.__name__)
            self._names[key] = cls.__name__ + (f"_{taken}" if taken else "")
        return self._names[key]

    def method(self, cls: type[Struct], name: str, where: str) -> str:
        """The name of the function for a method; adds it to the program."""
        key = ("method", (cls, name))
        if key in self._open:
            raise FeatureError(where, f"{cls.__name__}.{name} calls itself; recursion cannot be compiled")
        if key not in self._names:
            self._open.add(key)
            function_name = f"{self.struct_name(cls)}_{name}"
            plain = getattr(cls, name)
            if name == "clear" and plain in (Struct.clear, FeatureClass.clear):
                self.functions.append((self._zeroing(cls, function_name), f"{cls.__name__}.clear"))
            else:
                self._add(plain, function_name, cls)
            self._names[key] = function_name
            self._open.discard(key)
        return self._names[key]

    def function(self, plain: FunctionType, where: str) -> str:
        """The name of a module-level helper function of a feature file."""
        key = ("function", plain)
        if key in self._open:
            raise FeatureError(where, f"{plain.__name__} calls itself; recursion cannot be compiled")
        if key not in self._names:
            self._open.add(key)
            name = f"{plain.__module__.rsplit('.', 1)[-1]}_{plain.__name__}"
            self._add(plain, name, None)
            self._names[key] = name
            self._open.discard(key)
        return self._names[key]

    def zeroing(self, cls: type[Struct]) -> str:
        """The name of the function that sets every field to zero, whatever `clear` does."""
        if cls.clear is Struct.clear:
            return self.method(cls, "clear", cls.__name__)
        key = ("zero", cls)
        if key not in self._names:
            self._names[key] = f"{self.struct_name(cls)}_zero"
            self.functions.append((self._zeroing(cls, self._names[key]), f"{cls.__name__}: all zeros"))
        return self._names[key]

    def _add(self, plain: FunctionType, name: str, cls: type[Struct] | None) -> None:
        definition, filename = _parse(plain)
        rewritten = _Rewriter(self, plain, filename, cls).rewrite(definition, name)
        self.functions.append((rewritten, f"{filename}:{definition.lineno} {plain.__qualname__}"))

    def _zeroing(self, cls: type[Struct], name: str) -> ast.FunctionDef:
        """`clear` of a class without one of its own: every field zero."""
        lines = [f"def {name}(self):"]
        for field, kind in state_fields(cls).items():
            if isinstance(kind, ArrayField):
                if kind.size == 0:
                    continue
                lines.append(f"    for i in range({kind.size}):")
                if isinstance(kind.element, np.dtype):
                    lines.append(f"        self.{field}[i] = 0")
                else:
                    lines.append(f"        {self.zeroing(kind.element)}(self.{field}[i])")
            elif isinstance(kind, np.dtype):
                lines.append(f"    self.{field} = 0")
            else:
                lines.append(f"    {self.zeroing(kind)}(self.{field})")
        lines.append("    return")
        return ast.parse("\n".join(lines)).body[0]  # type: ignore[return-value]


def _parse(plain: FunctionType) -> tuple[ast.FunctionDef, str]:
    """The definition of a function, with the line numbers of its file."""
    filename, first = plain.__code__.co_filename, plain.__code__.co_firstlineno
    linecache.checkcache(filename)
    source = linecache.getlines(filename, plain.__globals__)
    lines = source[first - 1 : _ends_of_functions("".join(source)).get(first, 0)]
    if not lines:
        raise FeatureError(
            plain.__qualname__, "its source cannot be read; define the class in a file or a notebook cell"
        )
    definition = ast.parse(textwrap.dedent("".join(lines))).body[0]
    if not isinstance(definition, ast.FunctionDef):
        raise FeatureError(f"{filename}:{first}", f"{plain.__qualname__} is not a plain function")
    ast.increment_lineno(definition, first - 1)
    return definition, lasting_name(filename)


@functools.cache
def _ends_of_functions(source: str) -> dict[int, int]:
    """First line of each function, its decorators included → its last line."""
    try:
        nodes = ast.walk(ast.parse(source))
    except SyntaxError:  # it was edited since it was imported
        return {}
    return {
        min(part.lineno for part in (node, *getattr(node, "decorator_list", ()))): node.end_lineno or node.lineno
        for node in nodes
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    }


class _Rewriter(OutputRewriter, ast.NodeTransformer):
    """Rewrites one function. `_types` knows which local names are records or arrays in a state."""

    def __init__(self, program: ClassFunctions, plain: FunctionType, filename: str, cls: type[Struct] | None) -> None:
        self._program, self._plain, self._filename, self._cls = program, plain, filename, cls
        self._types: dict[str, Any] = {}
        self._output = None
        closure = inspect.getclosurevars(plain) if plain.__closure__ else None
        self._globals = {**plain.__globals__, **(closure.nonlocals if closure else {})}

    def rewrite(self, definition: ast.FunctionDef, name: str) -> ast.FunctionDef:
        arguments = [argument.arg for argument in definition.args.args]
        if definition.args.vararg or definition.args.kwarg or definition.args.kwonlyargs or definition.args.defaults:
            raise self._error(definition, "only plain positional parameters can be compiled")
        for argument in definition.args.args:
            self._types[argument.arg] = self._annotated(argument)
        if self._cls is not None:
            self._types[arguments[0]] = self._cls
        if definition.name == "collect_features" and self._cls is not None and issubclass(self._cls, FeatureClass):
            self._output = output_fields(self._cls)
            arguments.insert(1, "_out")
        if Packet in self._types.values() and reads_raw(self._plain):
            arguments.append("_buffer")
        self._last = definition.body[-1]
        body = [self.visit(statement) for statement in _without_docstring(definition.body)]
        flat = [part for item in body for part in (item if isinstance(item, list) else [item]) if part is not None]
        made = ast.parse(f"def {name}({', '.join(arguments)}): pass").body[0]
        assert isinstance(made, ast.FunctionDef)
        made.body = flat or [ast.Pass()]
        made.lineno = definition.lineno
        return ast.fix_missing_locations(made)

    def _annotated(self, argument: ast.arg) -> Any:
        if argument.annotation is None:
            return Packet if argument.arg == "pkt" else None
        text = argument.annotation.value if isinstance(argument.annotation, ast.Constant) else None
        name = text or ast.unparse(argument.annotation)
        known = self._globals.get(str(name))
        return known if (isinstance(known, type) and issubclass(known, Struct)) or is_output(known) else None

    def _error(self, node: ast.AST, message: str) -> FeatureError:
        return FeatureError(
            f"{self._filename}:{getattr(node, 'lineno', '?')}", f"{self._plain.__qualname__}: {message}"
        )

    # What an expression is: a Struct class, an ArrayField, a dtype (a number in a state), an output NamedTuple, or None
    # (a plain value).

    def _type_of(self, node: ast.expr) -> Any:
        if isinstance(node, ast.Name):
            return self._types.get(node.id)
        if isinstance(node, ast.Attribute):
            owner = self._type_of(node.value)
            if isinstance(owner, type) and issubclass(owner, Struct):
                return state_fields(owner).get(node.attr)
            if is_output(owner):
                return next((part.kind for part in parts(owner) if part.name == node.attr and not part.copies), None)
        if isinstance(node, ast.Call):
            return self.made_by(node)
        if isinstance(node, ast.Subscript):
            owner = self._type_of(node.value)
            if isinstance(owner, ArrayField):
                return owner if isinstance(node.slice, ast.Slice) else owner.element
        return None

    def generic_visit(self, node: ast.AST) -> ast.AST:
        for kind, word in _REFUSED.items():
            if isinstance(node, kind):
                raise self._error(node, f"{word} cannot be compiled; use plain arithmetic, if, for and while")
        return super().generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        owner = self._type_of(node.value)
        if isinstance(owner, type) and issubclass(owner, Struct):
            kind = state_fields(owner).get(node.attr)
            if kind is None:
                return self._constant(node, owner)
            if owner is Packet and not isinstance(node.ctx, ast.Load):
                raise self._error(node, f"{node.attr} of a packet cannot be changed; other classes see the packet too")
            base = ast.Attribute(self._place(node.value), node.attr, node.ctx)
            read = self._read(base, kind, node)
            if owner is Packet and node.attr == "direction":  # UP or DOWN: as an index it needs no check then
                read = ast.copy_location(ast.BinOp(read, ast.BitAnd(), ast.Constant(1)), node)
            return read
        if is_output(owner):
            if node.attr not in owner._fields:
                hint = did_you_mean(node.attr, owner._fields)
                raise self._error(node, f"{ast.unparse(node)}: {owner.__name__} has no field {node.attr}{hint}")
            index = ast.Constant(owner._fields.index(node.attr))
            return ast.copy_location(ast.Subscript(self.visit(node.value), index, ast.Load()), node)
        named = self._globals.get(node.value.id) if isinstance(node.value, ast.Name) else None
        if isinstance(named, type) and issubclass(named, Struct) and node.attr in parameters(named):
            specialised = self._cls if self._cls is not None and issubclass(self._cls, named) else named
            return ast.copy_location(ast.Constant(parameters(specialised)[node.attr]), node)
        if named is np or getattr(named, "__name__", "") == "math":
            module = "np" if named is np else "math"
            return ast.copy_location(ast.Attribute(ast.Name(module, ast.Load()), node.attr, ast.Load()), node)
        raise self._error(node, f"{ast.unparse(node)} is not a field, parameter or constant")

    def _constant(self, node: ast.Attribute, owner: type[Struct]) -> ast.expr:
        values = parameters(owner)
        if node.attr in values and isinstance(node.ctx, ast.Load):
            return ast.copy_location(ast.Constant(values[node.attr]), node)
        known = [*state_fields(owner), *values]
        if owner is Packet:
            hint = did_you_mean(node.attr, known) or f"; there are {', '.join(known)}"
            raise self._error(node, f"a packet has no {node.attr!r}{hint}")
        kind = "parameter cannot be changed" if node.attr in values else "declare it with an annotation"
        raise self._error(node, f"{owner.__name__} has no field {node.attr!r}; {kind}{did_you_mean(node.attr, known)}")

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        owner = self._type_of(node.value)
        if not isinstance(owner, ArrayField):
            return self.generic_visit(node)  # type: ignore[return-value]
        base = ast.Subscript(self._place(node.value), self.visit(node.slice), node.ctx)
        return self._read(base, owner if isinstance(node.slice, ast.Slice) else owner.element, node)

    def _place(self, node: ast.expr) -> ast.expr:
        """An expression that stays a record or array."""
        if isinstance(node, ast.Name):
            return ast.Name(node.id, ast.Load())
        visited = self.visit(node)
        assert isinstance(visited, ast.expr)
        return visited

    def _read(self, base: ast.expr, kind: Any, node: ast.expr) -> ast.expr:
        """A number that is read is an int64 or float64, in plain Python (see api.Struct) as compiled."""
        if isinstance(kind, np.dtype) and isinstance(node.ctx, ast.Load):  # type: ignore[attr-defined]
            cast = "float64" if kind.kind == "f" else "int64"
            base = ast.Call(ast.Name(cast, ast.Load()), [base], [])
        return ast.copy_location(base, node)

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if node.id in self._types or not isinstance(node.ctx, ast.Load):
            return node
        if node.id in self._plain.__code__.co_varnames:
            return node
        value = self._globals.get(node.id)
        if isinstance(value, bool | int):
            return ast.copy_location(ast.Constant(value), node)
        if isinstance(value, float):
            if np.isfinite(value):
                return ast.copy_location(ast.Constant(value), node)
            word = "np.nan" if np.isnan(value) else ("np.inf" if value > 0 else "-np.inf")
            return ast.copy_location(ast.parse(word, mode="eval").body, node)
        if isinstance(value, tuple):
            return ast.copy_location(ast.parse(repr(value), mode="eval").body, node)
        raise self._error(node, f"{node.id} is not known here, or not a number{did_you_mean(node.id, self._globals)}")

    def visit_Assign(self, node: ast.Assign) -> ast.stmt:
        kind = self._type_of(node.value)
        target = node.targets[0] if len(node.targets) == 1 else None
        is_place = isinstance(kind, ArrayField) or (isinstance(kind, type) and issubclass(kind, Struct))
        if (is_place or is_output(kind)) and isinstance(target, ast.Name):
            self._types[target.id] = kind
        return ast.copy_location(
            ast.Assign([self.visit(target) for target in node.targets], self.visit(node.value)), node
        )

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.stmt | None:
        if node.value is None:
            return None
        return self.visit_Assign(ast.copy_location(ast.Assign([node.target], node.value), node))

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.stmt:
        if isinstance(node.target, ast.Name):
            return self.generic_visit(node)  # type: ignore[return-value]
        read = ast.parse(ast.unparse(node.target), mode="eval").body
        ast.copy_location(read, node)
        value = ast.copy_location(ast.BinOp(read, node.op, node.value), node)
        return self.visit_Assign(ast.copy_location(ast.Assign([node.target], ast.fix_missing_locations(value)), node))

    def visit_If(self, node: ast.If) -> Any:
        test = self._condition(node.test)
        if isinstance(test, ast.Constant):  # an option: the branch that is not taken is not compiled
            taken = node.body if test.value else node.orelse
            return self._block(taken) or ast.copy_location(ast.Pass(), node)
        return ast.copy_location(ast.If(test, self._block(node.body) or [ast.Pass()], self._block(node.orelse)), node)

    def _condition(self, node: ast.expr) -> ast.expr:
        """A condition, a constant when it asks for an option only."""
        test = self.visit(node)
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not) and isinstance(test.operand, ast.Constant):
            return ast.Constant(not test.operand.value)
        assert isinstance(test, ast.expr)
        return test

    def visit_IfExp(self, node: ast.IfExp) -> ast.expr:
        test = self._condition(node.test)
        if isinstance(test, ast.Constant):
            chosen = self.visit(node.body if test.value else node.orelse)
            assert isinstance(chosen, ast.expr)
            return chosen
        return ast.copy_location(ast.IfExp(test, self.visit(node.body), self.visit(node.orelse)), node)

    def _block(self, statements: list[ast.stmt]) -> list[ast.stmt]:
        visited = [self.visit(statement) for statement in statements]
        return [part for item in visited for part in (item if isinstance(item, list) else [item]) if part is not None]

    def visit_Expr(self, node: ast.Expr) -> ast.stmt | None:
        if isinstance(node.value, ast.Constant):
            return None  # a docstring
        return self.generic_visit(node)  # type: ignore[return-value]

    def visit_Call(self, node: ast.Call) -> ast.expr:
        if self.is_constructor(node):
            values = [self.visit(value) for value in self.values_of(node, self.made_by(node))]
            return ast.copy_location(ast.Tuple(values, ast.Load()), node)
        if node.keywords:
            raise self._error(node, "only positional arguments can be compiled")
        function = node.func
        if isinstance(function, ast.Attribute):
            owner = self._type_of(function.value)
            if isinstance(owner, type) and issubclass(owner, Struct):
                return self._method_call(node, function, owner)
            return ast.copy_location(ast.Call(self.visit(function), [self.visit(a) for a in node.args], []), node)
        if not isinstance(function, ast.Name):
            raise self._error(node, "only methods and functions by name can be called")
        return self._function_call(node, function)

    def _method_call(self, node: ast.Call, function: ast.Attribute, owner: type[Struct]) -> ast.expr:
        arguments = [self._argument(argument) for argument in node.args]
        if owner is Packet and function.attr == "raw":
            packet = self._place(function.value)
            return _call("raw_byte", [packet, ast.Name("_buffer", ast.Load()), *arguments], node)
        if not isinstance(getattr(owner, function.attr, None), FunctionType):
            known = [name for name in dir(owner) if not name.startswith("_")]
            raise self._error(
                node, f"{owner.__name__} has no method {function.attr!r}{did_you_mean(function.attr, known)}"
            )
        name = self._program.method(owner, function.attr, self._error(node, "").where)
        buffer = self._buffer(node, getattr(owner, function.attr))
        return _call(name, [self._place(function.value), *arguments, *buffer], node)

    def _function_call(self, node: ast.Call, function: ast.Name) -> ast.expr:
        if function.id == "len" and node.args and isinstance(self._type_of(node.args[0]), ArrayField):
            return ast.copy_location(ast.Constant(self._type_of(node.args[0]).size), node)
        arguments = [self._argument(argument) for argument in node.args]
        value = self._globals.get(function.id, getattr(builtins, function.id, None))
        if function.id in _BUILTINS and value is getattr(builtins, function.id):
            return _call(function.id, arguments, node)
        if isinstance(value, FunctionType) and value.__module__ == api.__name__ and value.__name__ in _API_FUNCTIONS:
            return _call(value.__name__, arguments, node)
        if isinstance(value, FunctionType):
            name = self._program.function(value, self._error(node, "").where)
            return _call(name, [*arguments, *self._buffer(node, value)], node)
        raise self._error(node, f"{function.id} cannot be called here{did_you_mean(function.id, _BUILTINS)}")

    def _argument(self, node: ast.expr) -> ast.expr:
        kind = self._type_of(node)
        record = isinstance(kind, ArrayField) or (isinstance(kind, type) and issubclass(kind, Struct))
        return self._place(node) if record else self.visit(node)

    def _buffer(self, node: ast.Call, callee: FunctionType) -> list[ast.expr]:
        passes = any(self._type_of(argument) is Packet for argument in node.args) and reads_raw(callee)
        return [ast.Name("_buffer", ast.Load())] if passes else []


def _call(name: str, arguments: list[ast.expr], node: ast.AST) -> ast.expr:
    return ast.copy_location(ast.Call(ast.Name(name, ast.Load()), arguments, []), node)


def reads_raw(plain: Callable[..., Any]) -> bool:
    """Whether a function that takes a packet gets its bytes too: when anything in its file reads raw bytes."""
    return ".raw(" in _file_of(plain)


def reads_records(plain: Callable[..., Any]) -> bool:
    """Whether anything in the file of a function asks for the TLS records of a packet."""
    return ".record_bytes" in _file_of(plain)


def _file_of(plain: Callable[..., Any]) -> str:
    try:
        return inspect.getsource(sys.modules[plain.__module__])
    except (OSError, TypeError, KeyError):
        return inspect.getsource(plain)


def _without_docstring(body: list[ast.stmt]) -> list[ast.stmt]:
    first = body[0] if body else None
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
        return body[1:]
    return body
