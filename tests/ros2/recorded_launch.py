"""A launch file and its arguments -> the processes that it would start, without `launch`.

`launch` and `launch_ros` come only with a full ROS 2, not from PyPI. The few of their names that
our launch files use are defined here with the same signatures. They record in a context, in the
same order, what the real ones would do.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import yaml


@dataclass
class Context:
    """What a launch file has declared, logged and started so far."""

    launch_configurations: dict[str, str]
    arguments: dict[str, tuple[str, str]] = field(
        default_factory=dict
    )  # name -> (default, description)
    messages: list[str] = field(default_factory=list)
    processes: list[Process] = field(default_factory=list)

    def perform(self, value: Any) -> Any:
        return value.perform(self) if hasattr(value, "perform") else value

    def visit(self, entities: list[Any]) -> None:
        for entity in entities:
            entity.visit(self)


@dataclass
class Process:
    package: str
    executable: str
    ros_arguments: list[str]
    parameters: list[Any]  # paths of files, or dicts
    environment: dict[str, str]

    def arguments(self, folder: Path) -> list[str]:
        """Arguments of the command line; dicts go into files in `folder`, as in launch_ros."""
        line = ["--ros-args", *self.ros_arguments]
        for i, source in enumerate(self.parameters):
            if isinstance(source, dict):
                path = folder / f"launch_params_{i}.yaml"
                path.write_text(yaml.safe_dump({"/**": {"ros__parameters": source}}))
                source = path
            line += ["--params-file", str(source)]
        return line


@dataclass
class LaunchConfiguration:
    name: str

    def perform(self, context: Context) -> str:
        return context.launch_configurations[self.name]


@dataclass
class ParameterValue:
    value: Any
    value_type: type

    def perform(self, context: Context) -> Any:
        text = context.perform(self.value)
        value = text if self.value_type is str else yaml.safe_load(text)
        if self.value_type is float and type(value) is int:
            value = float(value)
        if not isinstance(value, self.value_type):
            raise ValueError(f"'{text}' is not a {self.value_type.__name__}")
        return value


@dataclass
class LaunchDescription:
    entities: list[Any]

    def visit(self, context: Context) -> None:
        context.visit(self.entities)


@dataclass
class DeclareLaunchArgument:
    name: str
    default_value: str
    description: str

    def visit(self, context: Context) -> None:
        context.arguments[self.name] = (self.default_value, self.description)
        context.launch_configurations.setdefault(self.name, self.default_value)


@dataclass
class SetEnvironmentVariable:
    name: str
    value: str

    def visit(self, context: Context) -> None:
        os.environ[self.name] = self.value  # launch changes its own environment in the same way


@dataclass
class LogInfo:
    msg: str

    def visit(self, context: Context) -> None:
        context.messages.append(self.msg)


@dataclass
class OpaqueFunction:
    function: Callable[[Context], list[Any]]

    def visit(self, context: Context) -> None:
        context.visit(self.function(context))


@dataclass
class PythonLaunchDescriptionSource:
    path: str


@dataclass
class IncludeLaunchDescription:
    source: PythonLaunchDescriptionSource
    launch_arguments: list[tuple[str, Any]]

    def visit(self, context: Context) -> None:
        for name, value in self.launch_arguments:
            context.launch_configurations[name] = context.perform(value)
        _load(Path(self.source.path)).visit(context)


@dataclass
class Node:
    package: Any
    executable: Any
    name: str
    namespace: Any
    output: str
    parameters: list[Any]
    remappings: list[tuple[str, Any]] = field(default_factory=list)

    def visit(self, context: Context) -> None:
        namespace = "/" + context.perform(self.namespace).lstrip("/")
        rules = [f"__node:={self.name}", f"__ns:={namespace}"]
        rules += [f"{a}:={context.perform(b)}" for a, b in self.remappings]
        parameters = [
            {name: context.perform(value) for name, value in source.items()}
            if isinstance(source, dict)
            else context.perform(source)
            for source in self.parameters
        ]
        context.processes.append(
            Process(
                context.perform(self.package),
                context.perform(self.executable),
                [part for rule in rules for part in ("-r", rule)],
                parameters,
                dict(os.environ),
            )
        )


_MODULES: dict[str, tuple[type, ...]] = {
    "launch": (LaunchDescription, Context),
    "launch.actions": (
        DeclareLaunchArgument, IncludeLaunchDescription, LogInfo, OpaqueFunction,
        SetEnvironmentVariable,
    ),
    "launch.launch_description_sources": (PythonLaunchDescriptionSource,),
    "launch.substitutions": (LaunchConfiguration,),
    "launch_ros": (),
    "launch_ros.actions": (Node,),
    "launch_ros.parameter_descriptions": (ParameterValue,),
}  # fmt: skip


def record(path: Path, share: Path, **arguments: str) -> Context:
    """Run the launch file at `path` with `arguments`; `share` is the share folder of ramnas."""
    context = Context(dict(arguments))
    with mock.patch.dict(os.environ), _modules(share):
        _load(path).visit(context)
    return context


def _load(path: Path) -> LaunchDescription:
    spec = importlib.util.spec_from_file_location(path.name.replace(".", "_"), path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    description: LaunchDescription = module.generate_launch_description()
    return description


@contextmanager
def _modules(share: Path) -> Iterator[None]:
    modules = {name: ModuleType(name) for name in _MODULES}
    for name, classes in _MODULES.items():
        for one in classes:
            setattr(modules[name], "LaunchContext" if one is Context else one.__name__, one)
    index = ModuleType("ament_index_python.packages")
    index.get_package_share_directory = lambda name: {"ramnas": str(share)}[name]  # type: ignore[attr-defined]
    modules["ament_index_python"] = ModuleType("ament_index_python")
    modules["ament_index_python.packages"] = index
    with mock.patch.dict(sys.modules, modules):
        yield
