"""YAML and dotted flags in, a checked JobConfig out, and back to YAML."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import importlib.util
import re
import typing
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jsonargparse
import yaml

from bgetune.config import JobConfig
from bgetune.config_check import check
from bgetune.errors import UserError, did_you_mean

jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)


def _dataclass_in(annotation: Any) -> tuple[type | None, bool]:
    """The dataclass a field holds, and whether it holds it as the values of a dict."""
    if dataclasses.is_dataclass(annotation):
        return typing.cast(type, annotation), False
    if typing.get_origin(annotation) is dict and dataclasses.is_dataclass(typing.get_args(annotation)[1]):
        return typing.get_args(annotation)[1], True
    return None, False


def dotted_keys(cls: type = JobConfig, prefix: str = "") -> Iterator[str]:
    """Every key one may set, dotted: `output`, `train.learning_rate`, ..."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        inner, many = _dataclass_in(hints[field.name])
        if inner is None or many:
            yield prefix + field.name
        else:
            yield from dotted_keys(inner, f"{prefix}{field.name}.")


def _refuse_unknown_keys(node: yaml.Node | None, cls: type, path: Path, prefix: str = "") -> None:
    if not isinstance(node, yaml.MappingNode):
        if node is not None and not (isinstance(node, yaml.ScalarNode) and node.tag.endswith(":null")):
            name = prefix.rstrip(".") or "the file"
            raise UserError(f"{path}:{node.start_mark.line + 1}: {name} must be a mapping of keys to values")
        return
    hints = typing.get_type_hints(cls)
    seen: set[str] = set()
    for key_node, value_node in node.value:
        key, line = str(key_node.value), key_node.start_mark.line + 1
        if key in seen:
            raise UserError(f'{path}:{line}: the key "{prefix}{key}" is there twice; remove one')
        seen.add(key)
        if key not in hints:
            raise UserError(f'{path}:{line}: unknown key "{prefix}{key}"{_nearest_key(prefix + key, list(hints))}')
        inner, many = _dataclass_in(hints[key])
        if inner is not None and many and isinstance(value_node, yaml.MappingNode):
            for name_node, item_node in value_node.value:
                _refuse_unknown_keys(item_node, inner, path, f"{prefix}{key}.{name_node.value}.")
        elif inner is not None:
            _refuse_unknown_keys(value_node, inner, path, f"{prefix}{key}.")


def _nearest_key(dotted: str, siblings: list[str]) -> str:
    """The hint for an unknown key: a sibling that is spelt alike, or the same name in another section."""
    head, _, name = dotted.rpartition(".")
    hint = did_you_mean(name, siblings)
    if hint:
        return hint.replace('"', f'"{head}.', 1) if head else hint
    elsewhere = [known for known in dotted_keys() if known.rpartition(".")[2] == name]
    if elsewhere:
        fewest = min(known.count(".") for known in elsewhere)
        names = [f'"{known}"' for known in elsewhere if known.count(".") == fewest]
        return f"; did you mean {' or '.join(names)}?"
    return did_you_mean(dotted, [key for key in dotted_keys() if key.rpartition(".")[0] != head])


def _check_yaml(path: Path) -> None:
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except FileNotFoundError:
        raise UserError(f"--config: {path} does not exist") from None
    except IsADirectoryError:
        raise UserError(f"--config: {path} is a folder; name the YAML file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise UserError(f"{path}{line}: not valid YAML: {getattr(error, 'problem', error)}") from None
    _refuse_unknown_keys(node, JobConfig, path)


def _type_name(annotation: str) -> str:
    """jsonargparse's way of naming a type, in words.

    >>> _type_name("<class 'float'>"), _type_name("typing.Literal['a', 'b']")
    ('a float', "one of 'a', 'b'")
    """
    if annotation in ("<class 'tuple'>", "<class 'list'>"):
        return "a list such as [a, b]"
    if annotation == "<class 'NoneType'>":
        return "null"
    if match := re.fullmatch(r"<class '(\w+)'>", annotation):
        article = "an" if match[1][0] in "aeiou" else "a"
        return f"{article} {match[1]}"
    if match := re.fullmatch(r"(?:typing\.)?Literal\[(.*)\]", annotation):
        return f"one of {match[1]}"
    return annotation.replace("typing.", "")


def _one_line(message: str, options: Iterable[str] = ()) -> str:
    """A jsonargparse message as one line that starts with the option; `options` are those of the parser."""
    if match := re.search(r'[Kk]ey "([\w.]+)":\s+Expected an? (.+?)\. Got value: (.*)', message):
        # jsonargparse drops the path to an item of a dict; only the guards are such items
        option = match[1] if match[1] in dotted_keys() else f"data.guards.*.{match[1]}"
        return f"{option}: expected {_type_name(match[2])}, got {match[3].strip()!r}"
    if match := re.search(r"unrecognized arguments: (\S+)", message):
        if not match[1].startswith("-"):
            return f"unexpected word {match[1]!r}; options are written --section.key VALUE"
        typed = match[1].split("=")[0]
        option = typed.lstrip("-")
        head = option.rpartition(".")[0]
        siblings = [key.rpartition(".")[2] for key in options if key.rpartition(".")[0] == head]
        hint = re.sub(r'"([\w.-]+)"', r'"--\1"', _nearest_key(option, siblings))
        return f"unknown option {typed}{hint}"
    flat = " ".join(message.split())
    union = r'[Kk]ey "([\w.]+)": Does not validate against any of the Union subtypes Subtypes: \[(.*?)\] Errors:.*'
    if match := re.search(union + r"Given value: (.*)", flat):
        kinds = " or ".join(_type_name(kind) for kind in re.findall(r"<class '\w+'>|typing\.Literal\[.*?\]", match[2]))
        return f"{match[1]}: expected {kinds}, got {match[3]!r}"
    if flat.startswith("Unexpected config"):
        return "--config: the file is empty; see configs/ for examples"
    if match := re.search(r'[Kk]ey "([\w.]+)": (.*)', flat):
        return f"{match[1]}: {match[2]}"
    return flat


class _Parser(jsonargparse.ArgumentParser):
    """Reports a mistake by raising UserError, never by printing usage and exiting."""

    own: frozenset[str] = frozenset()
    """Names of the options that are the program's and not the job's."""

    def dump(self, cfg: jsonargparse.Namespace, **options: Any) -> str:
        """The job alone: what --print_config shows is to be a job's file."""
        job = cfg.clone()
        for name in self.own:
            job.pop(name, None)
        return super().dump(job, **options)

    def error(self, message: str, ex: Exception | None = None) -> typing.NoReturn:
        raise UserError(_one_line(message, [option.lstrip("-") for option in self._option_string_actions]))


_AddOptions = Callable[[jsonargparse.ArgumentParser], None]


@functools.cache  # to make one takes longer than to use it
def _parser(add_own: _AddOptions | None) -> _Parser:
    parser = _Parser(exit_on_error=False, default_env=False, allow_abbrev=False)
    parser.add_argument("--config", action="config", help="YAML file with the job; flags after it win.")
    if add_own is not None:
        add_own(parser)
    parser.own = frozenset(action.dest for action in parser._actions) - {"help", "config", "print_config"}
    parser.add_class_arguments(JobConfig)
    return parser


def parse_job(
    argv: Sequence[str],
    prog: str,
    description: str,
    add_own: _AddOptions | None = None,
    is_job: bool = True,
) -> tuple[JobConfig, dict[str, Any]]:
    """Read `--config FILE` and dotted overrides.

    Args:
        argv: the words after the program's name.
        prog, description: for `--help`.
        add_own: adds the program's own options, which are not part of the job.
        is_job: off where the program takes the job's options and not its data.

    Returns:
        The checked job, and the program's own options by name.

    Raises:
        UserError: unknown key or option, wrong type, value out of range, missing or broken file.
    """
    parser = _parser(add_own)
    parser.prog, parser.description = prog, description
    argv = [_shipped(word) for word in argv]
    for path in _config_paths(argv):
        _check_yaml(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            names = parser.instantiate(parser.parse_args(list(argv)))
    except (argparse.ArgumentError, ValueError, TypeError) as error:
        raise UserError(_one_line(str(error))) from None
    finally:
        vars(parser).pop("print_config", None)  # asked for with a mistake beside it, the next parse would print
    values = {field.name: names[field.name] for field in dataclasses.fields(JobConfig)}
    return check(JobConfig(**values), is_job), {name: names[name] for name in sorted(parser.own)}


def _shipped(word: str) -> str:
    """`configs/NAME.yaml` where there is no clone: the file that came with the package."""
    option, equals, path = word.rpartition("=") if word.startswith("--config=") else ("", "", word)
    if not re.fullmatch(r"configs/[\w.-]+\.yaml", path) or Path(path).exists():
        return word
    spec = importlib.util.find_spec("bgetune.configs")
    places = [Path(place) / Path(path).name for place in (spec.submodule_search_locations or [])] if spec else []
    found = next((place for place in places if place.exists()), None)
    return option + equals + str(found) if found else word


def _config_paths(argv: Sequence[str]) -> list[Path]:
    paths = [Path(word.split("=", 1)[1]) for word in argv if word.startswith("--config=")]
    paths += [Path(argv[i + 1]) for i, word in enumerate(argv[:-1]) if word == "--config"]
    return paths


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def to_dict(config: JobConfig) -> dict[str, Any]:
    """The job as plain dicts and lists, keys in the order of the dataclasses."""
    return _plain(dataclasses.asdict(config))


def to_yaml(config: JobConfig) -> str:
    return yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True, width=120)


def load_job(path: Path) -> JobConfig:
    """The job in one YAML file, without overrides. Raises UserError as parse_job does."""
    return parse_job(["--config", str(path)], prog="bgetune", description="")[0]


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts to dotted keys.

    >>> flatten({"a": {"b": 1}, "c": [2]})
    {'a.b': 1, 'c': [2]}
    """
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat
