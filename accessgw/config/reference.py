"""Makes docs/ops/configuration.md from the settings' structs and their doc lines: `make docs`."""

from __future__ import annotations

import ast
import inspect as source
from collections.abc import Iterator

import msgspec
from msgspec import inspect

from accessgw.config.diff import needs_restart
from accessgw.config.render import toml_value
from accessgw.config.structure import bare, expectation, is_secret
from accessgw.model.settings import GatewaySettings

HEADER = """\
# Configuration

<!-- Made from accessgw/model/*settings.py by `make docs`; edit the doc lines there. -->

One TOML file, `etc/accessgw.toml` unless `--config` says otherwise. Durations are seconds, sizes are bytes.
Relative paths are relative to the working directory, but for `routes_file` and `app_tables`, which are relative
to the file that names them.

- Check a file, and those that it names: `.venv/bin/twistd -n accessgw --config FILE --check`, which prints nothing, with
  exit code 0, when all is well. What is in force, defaults included and
  secrets masked: the same with `--print-config`, or `.venv/bin/accessgwctl config` for a running gateway.
- An unknown key is an error, and so is a value out of its range. Every problem is one line `path: message` on
  standard error, such as `listeners[1].port: expected an integer in 1..65535, got "x"`; the exit code is 1.
- Any setting can come from the environment: its path in capitals with `__` between the parts.
  `ACCESSGW__LISTENERS__0__PORT=7444` sets the port of the first listener, `ACCESSGW__LOG__CALLS=false` a
  switch. A string is taken as it is, anything else is read as TOML: `ACCESSGW__LISTENERS__0__PROTOCOLS='["mmtp/1"]'`.
  An index one past the end of a list adds an element. The environment wins over the file.
- SIGHUP or `.venv/bin/accessgwctl reload` reads the file again. A file with a problem changes nothing; the good one stays
  in force and the answer names the path. Settings marked **restart** keep their old value until the next start,
  and the answer lists them; all others take effect without touching a connection. Certificate files are read
  again under their old names.
"""


def reference() -> str:
    """The whole page as Markdown."""
    kind = inspect.type_info(GatewaySettings)
    assert isinstance(kind, inspect.StructType)
    return HEADER + "\n".join(_section(kind, "", "")) + "\n"


def _section(kind: inspect.StructType, path: str, title: str) -> Iterator[str]:
    """One struct: its own fields as a table, then a section for each struct inside."""
    docs = _doc_lines(kind.cls)
    inner: list[tuple[inspect.StructType, str, str]] = []
    yield f"\n## {title or 'The file'}\n"
    if title:
        yield f"{source.getdoc(kind.cls) or ''}\n"
    yield "| setting | what | value | default |\n| --- | --- | --- | --- |"
    for field in kind.fields:
        here = f"{path}.{field.name}" if path else field.name
        declared = bare(field.type)
        note = " **restart**" if needs_restart(here) and not isinstance(declared, inspect.StructType) else ""
        text = docs[field.name].replace("|", "\\|")
        yield f"| `{field.name}` | {text}{note} | {_values(field.type)} | {_default(field)} |"
        if isinstance(declared, inspect.StructType):
            inner.append((declared, here, f"`[{here}]`"))
        elif isinstance(declared, inspect.VarTupleType) and isinstance(declared.item_type, inspect.StructType):
            inner.append((declared.item_type, f"{here}[*]", f"`[[{here.replace('[*]', '')}]]`"))
    for struct, below, heading in inner:
        yield from _section(struct, below, heading)


def _values(kind: inspect.Type) -> str:
    declared = bare(kind)
    if is_secret(kind):
        return "a string, never shown"
    if isinstance(declared, inspect.StructType):
        return "a table, below"
    if isinstance(declared, inspect.VarTupleType):
        if isinstance(declared.item_type, inspect.StructType):
            return "tables, below"
        return "a list: " + expectation(declared.item_type).replace("a string", "strings").replace("one of ", "")
    return expectation(kind)


def _default(field: inspect.Field) -> str:
    if field.required:
        return "required"
    if field.default is msgspec.NODEFAULT or field.default is None or field.default == ():
        return ""
    default = list(field.default) if isinstance(field.default, tuple) else field.default
    if field.name == "mode":
        return f"`0o{default:o}`"
    return f"`{toml_value(default)}`"


def _doc_lines(struct: type) -> dict[str, str]:
    """Field -> the string that follows it in the source, on one line."""
    (definition,) = ast.parse(source.getsource(struct)).body
    assert isinstance(definition, ast.ClassDef)
    docs: dict[str, str] = {}
    for field, after in zip(definition.body, definition.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            assert isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant), (
                f"{struct.__name__}.{field.target.id} has no doc line"
            )
            docs[field.target.id] = " ".join(str(after.value.value).split())
    return docs


if __name__ == "__main__":
    print(reference(), end="")
