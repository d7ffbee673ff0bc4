"""The rooms of the house, from the ground up, and who imports whom: `python -m tests.house`."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path
from typing import Dict, Iterable, Iterator, List, NamedTuple, Optional, Set

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "ramnas_models": ROOT / "models/ramnas_models",
    "ramnas_edge": ROOT / "edge/ramnas_edge",
    "ramnas_host": ROOT / "host/ramnas_host",
    "ramnas_ros": ROOT / "ros2_pkg/ramnas_ros",
}
# A room imports from itself and from the rooms above it in this list. The one exception: host and
# ros, which both stand on edge, never import each other.
ROOMS = (
    "models",
    "edge.board",
    "edge.engines",
    "edge.vision",
    "edge.measuring",
    "edge.runtime",
    "edge.fleet",
    "edge.cli",
    "host.config",
    "host.data",
    "host.annotations",
    "host.surrogates",
    "host.training",
    "host.finetuning",
    "host.search",
    "host.fleet",
    "host.report",
    "host.cli",
    "ros",
)
FLAT = ("ramnas_models", "ramnas_ros")  # these packages are one room each


class Import(NamedTuple):
    """One import of a module of ours: where it stands, and what it names."""

    file: Path
    line: int
    module: str


def files() -> List[Path]:
    return sorted(file for folder in PACKAGES.values() for file in folder.rglob("*.py"))


def module_of(file: Path) -> str:
    """`ramnas_edge.board.clocks` for its file; a package for its `__init__.py`."""
    name, folder = next((n, f) for n, f in PACKAGES.items() if f in file.parents)
    parts = file.relative_to(folder).with_suffix("").parts
    return ".".join([name, *(part for part in parts if part != "__init__")])


def room_of(module: str) -> Optional[str]:
    """The room of a module; None for a package that only gathers rooms (`ramnas_edge` itself)."""
    package, *rest = module.split(".")
    short = package[len("ramnas_") :]
    if package in FLAT:
        return short
    if rest[:1] == ["__main__"]:
        return f"{short}.cli"
    return f"{short}.{rest[0]}" if rest else None


def imports_of(file: Path, known: Set[str]) -> Iterator[Import]:
    """The modules of ours that a file imports anywhere, also inside a function or for types only.

    `known`: all modules, which tell `from package import module` from `from module import name`.
    """
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] in PACKAGES:
                    yield Import(file, node.lineno, alias.name)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in PACKAGES:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield Import(file, node.lineno, inner if inner in known else str(node.module))


def all_imports() -> List[Import]:
    known = {module_of(file) for file in files()}
    return [one for file in files() for one in imports_of(file, known)]


def may_import(room: str, other: str) -> bool:
    if {room.split(".", maxsplit=1)[0], other.split(".", maxsplit=1)[0]} == {"host", "ros"}:
        return False
    return ROOMS.index(other) <= ROOMS.index(room)


def upward(imports: Iterable[Import]) -> List[str]:
    """Each import of a room that stands higher: the file, the line and the two rooms."""
    found = []
    for one in imports:
        room, other = room_of(module_of(one.file)), room_of(one.module)
        if room and other and not may_import(room, other):
            where = f"{one.file.relative_to(ROOT)}:{one.line}"
            found.append(f"{where}: {room} imports {other} ({one.module})")
    return found


def circles(imports: Iterable[Import]) -> List[List[str]]:
    """Groups of modules that import each other, directly or through others."""
    graph: Dict[str, Set[str]] = {}
    for one in imports:
        name = module_of(one.file)
        if name != one.module:
            graph.setdefault(name, set()).add(one.module)

    def reached(start: str) -> Set[str]:
        seen: Set[str] = set()
        left = [*graph.get(start, ())]
        while left:
            name = left.pop()
            if name not in seen:
                seen.add(name)
                left += graph.get(name, ())
        return seen

    reach = {name: reached(name) for name in graph}
    found = {
        frozenset(other for other in reach[name] if name in reach.get(other, ()))
        for name in graph
        if name in reach[name]
    }
    return sorted(sorted(group) for group in found)


def main() -> None:
    """Print each room with its files and the rooms that it imports, with the number of imports."""
    imports = all_imports()
    for room in ROOMS:
        own = [file.stem for file in files() if room_of(module_of(file)) == room]
        names = sorted(name for name in own if not name.startswith("__"))
        print(f"{room}  ({len(names)} files)\n    {' '.join(names)}")
        counts = Counter(
            room_of(one.module) for one in imports if room_of(module_of(one.file)) == room
        )
        others = [f"{other} {counts[other]}" for other in ROOMS if other != room and counts[other]]
        print(f"    imports {', '.join(others) or 'nothing of ours'}\n")


if __name__ == "__main__":
    main()
