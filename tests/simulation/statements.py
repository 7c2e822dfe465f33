"""SQLAlchemy's connection, quicker: what one statement compiles to is kept on the statement itself.

A world asks its catalog some thousand things; most are statements that catalog/ made once. Of those, the SQL text is
compiled by SQLAlchemy for SQLite the second time that they are seen, and goes to the driver as it is from then on.
Everything else goes through SQLAlchemy. What comes back has as much of a result's methods as catalog/ uses.
"""

from __future__ import annotations

import sqlite3
from collections import namedtuple
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Boolean, Connection

Getter = tuple[str, int]  # a parameter's name, and which of its values, or -1


class Result:
    """Rows, all of them."""

    __slots__ = ("_rows", "rowcount")

    def __init__(self, rows: list[Any], rowcount: int) -> None:
        self._rows = rows
        self.rowcount = rowcount

    def __iter__(self) -> Iterator[Any]:
        return iter(self._rows)

    def all(self) -> list[Any]:
        return self._rows

    def one(self) -> Any:
        (row,) = self._rows
        return row

    def one_or_none(self) -> Any:
        return self.one() if self._rows else None

    def scalar_one_or_none(self) -> Any:
        return self.one()[0] if self._rows else None

    def scalars(self) -> Result:
        return Result([row[0] for row in self._rows], -1)


class _Plan:
    """One statement, with one set of parameters' names."""

    def __init__(self, statement: Any, dialect: Any, names: list[str]) -> None:
        self._compiled = compiled = statement.compile(dialect=dialect, column_keys=names)
        self._texts: dict[tuple[int, ...], tuple[str, list[Getter], dict[str, Any]]] = {}
        self._lists = [name for name in names if name in compiled.binds and compiled.binds[name].expanding]
        columns = compiled._result_columns
        make: Any = namedtuple
        self.row: Any = make("Row", [c.name for c in columns], rename=True)._make if columns else None
        self._truths = [i for i, c in enumerate(columns) if isinstance(c.type, Boolean)]

    def text(self, parameters: Any) -> tuple[str, list[Any]]:
        lengths = tuple([len(parameters[name]) for name in self._lists])
        found = self._texts.get(lengths)
        if found is None:
            given = self._compiled.construct_params(parameters)
            expanded = self._compiled._process_parameters_for_postcompile(given)
            pieces = {piece: (name, i) for name, p in expanded.parameter_expansion.items() for i, piece in enumerate(p)}
            getters = [pieces.get(name, (name, -1)) for name in expanded.positiontup or ()]
            constant = {name: value for name, value in given.items() if name not in parameters}
            found = self._texts[lengths] = expanded.statement, getters, constant
        sql, getters, constant = found
        values = [
            (parameters[name] if name in parameters else constant[name]) if i < 0 else parameters[name][i]
            for name, i in getters
        ]
        return sql, values

    def rows(self, cursor: sqlite3.Cursor) -> list[Any]:
        rows = cursor.fetchall()
        if rows and self._truths:
            rows = [
                tuple([bool(v) if i in self._truths and v is not None else v for i, v in enumerate(row)])
                for row in rows
            ]
        return [self.row(row) for row in rows]


class QuickConnection:
    """See the module."""

    def __init__(self, connection: Connection, raw: sqlite3.Connection) -> None:
        self._connection = connection
        self._raw = raw
        self.dialect = connection.dialect
        self.exec_driver_sql = connection.exec_driver_sql

    def execute(self, statement: Any, parameters: Any = None) -> Any:
        plans = statement.__dict__.get("_plans")
        if plans is None:
            statement.__dict__["_plans"] = {}
            return self._connection.execute(statement, parameters)
        many = isinstance(parameters, list)
        given = (parameters[0] if many else parameters) or {}
        names = tuple(given)
        plan = plans.get(names)
        if plan is None:
            plan = plans[names] = _Plan(statement, self.dialect, list(names))
        if many:
            values = [plan.text(row) for row in parameters]
            return Result([], self._raw.executemany(values[0][0], [row for _, row in values]).rowcount)
        cursor = self._raw.execute(*plan.text(given))
        return Result(plan.rows(cursor) if plan.row is not None else [], cursor.rowcount)

    def scalar(self, statement: Any, parameters: Any = None) -> Any:
        for row in self.execute(statement, parameters):
            return row[0]
        return None

    def scalars(self, statement: Any, parameters: Any = None) -> Any:
        return self.execute(statement, parameters).scalars()
