"""What a method of a feature class returns: outputs become columns of a row, or tuples on the way there."""

from __future__ import annotations

import ast
from types import FunctionType
from typing import Any

from trafficrefinery.api import Struct
from trafficrefinery.api.outputs import Part, is_output, parts
from trafficrefinery.errors import did_you_mean

from .fields import OutputField, output_class


class OutputRewriter(ast.NodeTransformer):
    """Rewrites output NamedTuples: in `collect_features` as assignments to the record `_out`, elsewhere as tuples."""

    _cls: type[Struct] | None
    _output: list[OutputField] | None  # the columns, in `collect_features`
    _last: ast.stmt  # the last statement of the method
    _globals: dict[str, Any]
    _error: Any  # methods of the whole rewriter
    _type_of: Any

    def made_by(self, node: ast.Call) -> Any:
        """The output NamedTuple that a call makes, if it makes one."""
        function = node.func
        if isinstance(function, ast.Name):
            value = self._globals.get(function.id)
            if is_output(value):
                return value
        else:
            owner = self._type_of(function.value) if isinstance(function, ast.Attribute) else None
            known = isinstance(owner, type) and issubclass(owner, Struct) and isinstance(function, ast.Attribute)
            value = getattr(owner, function.attr, None) if known else None  # type: ignore[attr-defined]
        if not isinstance(value, FunctionType):
            return None
        returned = value.__annotations__.get("return")
        made = value.__globals__.get(returned) if isinstance(returned, str) else returned
        return made if is_output(made) else None

    def visit_Return(self, node: ast.Return) -> Any:
        if self._output is None or self._cls is None:
            if not isinstance(node.value, ast.Call) or not self.is_constructor(node.value):
                return self.generic_visit(node)
            statements, whole = self._made_of(node.value, "_made")
            return [*statements, ast.copy_location(ast.Return(whole), node)]
        if not isinstance(node.value, ast.Call):
            raise self._error(node, "collect_features must end in `return Output(field=value, …)`, with keywords")
        ends = [] if node is self._last else [ast.copy_location(ast.Return(None), node)]
        return [*self._put(node.value, output_class(self._cls), ()), *ends]

    def _made_of(self, value: ast.expr, name: str) -> tuple[list[ast.stmt], ast.expr]:
        """A value of a NamedTuple, part by part: each has a line of its own, for messages."""
        if isinstance(value, ast.Call) and self.is_constructor(value):
            values = self.values_of(value, self.made_by(value))
        elif isinstance(value, ast.Tuple):
            values = value.elts
        else:
            made = ast.Assign([ast.Name(name, ast.Store())], self.visit(value))
            return [ast.copy_location(made, value)], ast.Name(name, ast.Load())
        found = [self._made_of(one, f"{name}_{index}") for index, one in enumerate(values)]
        whole = ast.copy_location(ast.Tuple([part for _, part in found], ast.Load()), value)
        return [statement for statements, _ in found for statement in statements], whole

    def _put(self, value: ast.expr, kind: Any, path: tuple[int, ...]) -> list[ast.stmt]:
        """Assignments to the columns of an output that lie at `path` in what `collect_features` returns."""
        assert self._output is not None
        fields = [field for field in self._output if field.column.path[: len(path)] == path]
        if not fields:  # of options that are off
            return []
        made = self.made_by(value) if isinstance(value, ast.Call) else None
        if is_output(kind) and made is not None and made is not kind:
            raise self._error(value, f"{ast.unparse(value.func)} gives {made.__name__} in place of {kind.__name__}")  # type: ignore[attr-defined]
        if is_output(kind) and isinstance(value, ast.Call) and self.is_constructor(value):
            given = zip(parts(kind), self.values_of(value, kind), strict=True)
            return [
                statement
                for index, (part, one) in enumerate(given)
                for statement in self._put_part(one, part, (*path, index))
            ]
        whole = self.visit(value)
        if fields[0].column.path == path:
            return [self._stored(fields[0], whole, value)]
        name = f"_made_{'_'.join(map(str, path))}"
        statements: list[ast.stmt] = [ast.copy_location(ast.Assign([ast.Name(name, ast.Store())], whole), value)]
        for field in fields:
            one: ast.expr = ast.Name(name, ast.Load())
            for index in field.column.path[len(path) :]:
                one = ast.Subscript(one, ast.Constant(index), ast.Load())
            statements.append(self._stored(field, one, value))
        return statements

    def _put_part(self, value: ast.expr, part: Part, path: tuple[int, ...]) -> list[ast.stmt]:
        if part.copies is None or not isinstance(value, ast.Tuple):
            return self._put(value, part.kind if part.copies is None else None, path)
        if len(value.elts) != part.copies:
            raise self._error(value, f"{part.name} has {len(value.elts)} elements; it is declared with {part.copies}")
        return [
            statement for copy, one in enumerate(value.elts) for statement in self._put(one, part.kind, (*path, copy))
        ]

    def _stored(self, field: OutputField, value: ast.expr, node: ast.expr) -> ast.stmt:
        place = ast.Attribute(ast.Name("_out", ast.Load()), field.name, ast.Store())
        if not field.size:
            return ast.copy_location(ast.Assign([place], value), node)
        place.ctx = ast.Load()
        return ast.copy_location(ast.Expr(ast.Call(ast.Name("put_list", ast.Load()), [place, value], [])), node)

    def is_constructor(self, node: ast.Call) -> bool:
        return isinstance(node.func, ast.Name) and is_output(self._globals.get(node.func.id))

    def values_of(self, node: ast.Call, made: Any) -> list[ast.expr]:
        """What a NamedTuple is made of, in the order of its fields."""
        given = {keyword.arg: keyword.value for keyword in node.keywords}
        if node.args or None in given:
            raise self._error(node, f"give the fields by name: {made.__name__}({made._fields[0]}=…)")
        for name in made._fields:
            if name not in given:
                raise self._error(node, f"the output field {name} of {made.__name__} is missing")
        for name in given:
            if name not in made._fields:
                hint = did_you_mean(str(name), made._fields)
                raise self._error(node, f"{made.__name__} has no field {name}{hint}")
        return [given[name] for name in made._fields]
