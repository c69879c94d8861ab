"""From a command line to a function call: the only place that knows Hydra.

`run("control_train", train, __doc__)` composes `configs/control_train.yaml` with the overrides on
the command line (`agent=pets planner.horizon=20`), builds what has a `_target_`, and calls
`train(**options)`. The options' meanings shown by `--help` are the comments of the YAML files.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import inspect
import itertools
import json
import os
import pkgutil
import sys
import traceback
import typing
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, QuotedString
from hydra.errors import HydraException, InstantiationException, OverrideParseException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from configs.checks import element_type, expected_type, misfit
from configs.help import program_arguments, render_help
from configs.sweeps import Job, follow_parent, sweep

HYDRA_VERSION = "1.3"
HYDRA_CONFIGS = "pkg://configs"
CONFIG_FOLDER = Path(__file__).parent
OWN_PACKAGES = ("configs", "control", "evals", "mbrl_core", "reasoning")
SWEEPS = Path("runs/sweeps")  # logs of runs that have no folder
PLACING = ("runner", "workers", "cpus", "gpus", "address")  # where a run is computed
SHOWN_ONLY = ("trees", "groups", *PLACING)  # what decides no record: it is the same run without
FLAGS = ("--help", "-h", "--multirun", "-m", "--cfg", "--traceback")

Function: TypeAlias = Callable[..., object]


def _first(*values: Any) -> Any:
    """`${first:...}` in options: the first of the values that is not null."""
    return next((value for value in values if value is not None), None)


OmegaConf.register_new_resolver("first", _first, replace=True)


class UsageError(Exception):
    """A command line that cannot be run; the message is one sentence for the user."""


class Composed(NamedTuple):
    """The options of one command line."""

    options: DictConfig
    choices: dict[str, str]  # config group -> the file chosen in it
    referred: str  # the options as text before `${...}` was resolved


def run(
    config_name: str, function: Function, doc: str, *, argv: Sequence[str] | None = None
) -> int:
    """Run `function` with the options of `configs/<config_name>.yaml` and the command line.

    Top-level options become keywords; a value with a `_target_` arrives as the object built from
    it. A `function` with a parameter `arguments` also receives the options but `out` as plain data,
    which is what run folders record. Hydra writes, logs and changes nothing (no folder of its own).

    Args:
        config_name: the entry file in `configs/`, without `.yaml`.
        function: called once. With `--multirun` this program is started once per combination.
        doc: what the command does, for `--help`.
        argv: the arguments; those of the process where `None`.

    Returns:
        The exit code: 0; 1 where `function` raised ValueError, OSError, FloatingPointError or lacks
        a module, which is told in one sentence; 2 for a wrong command line; 130 if interrupted.
        Other errors are bugs and keep their traceback.
    """
    follow_parent()
    arguments = list(sys.argv[1:] if argv is None else argv)
    flags = {item for item in arguments if item in FLAGS}
    is_multirun = bool(flags & {"--multirun", "-m"})
    overrides = [item for item in arguments if item not in FLAGS]
    try:
        _refuse_flags(overrides)
        if is_multirun and flags & {"--help", "-h", "--cfg"}:
            _refuse_several(overrides, "--help and --cfg show one run")
        if flags & {"--help", "-h"}:
            print(_help(config_name, overrides, doc), flush=True)
        elif not is_multirun and any(map(_is_of_sweep, overrides)):
            raise UsageError("sweep=... needs --multirun")
        elif "--cfg" in flags:
            _, shown = _split_sweep(overrides)
            print(OmegaConf.to_yaml(compose(config_name, shown, function).options), end="")
        elif is_multirun:
            more = ["--traceback"] if "--traceback" in flags else []
            _multirun(config_name, function, overrides, more)
        else:
            composed = compose(config_name, overrides, function)
            _note_idle(overrides, composed, function)
            _call(function, composed.options)
    except UsageError as error:
        return _explain(error, 2, "--traceback" in flags)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] in OWN_PACKAGES:
            raise
        needed = f"{error.name} is not installed: see Installing in the README"
        return _explain(ValueError(needed), 1, "--traceback" in flags)
    except BrokenPipeError:
        # The reader left (`| head`); what Python still wants to flush has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, OSError, FloatingPointError) as error:
        return _explain(error, 1, "--traceback" in flags)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def call(config_name: str, function: Function, overrides: Sequence[str], **more: Any) -> Any:
    """What the command line `overrides` would do, from within Python; `more` are extra keywords.

    Raises UsageError on a wrong option, and whatever `function` raises.
    """
    return _call(functools.partial(function, **more), compose(config_name, overrides).options)


def compose(
    config_name: str | None, overrides: Sequence[str], function: Function | None = None
) -> Composed:
    """The options after `overrides`, each of which is checked to exist and to have the right type.

    `function` adds its annotations to what is known of the options' types. Without `config_name`
    there are only the groups that `overrides` add. Raises UsageError.
    """
    with _hydra():
        parsed = _parse(overrides)
        groups = [item for item in parsed if _is_group(item)]
        try:
            for item in groups:
                _check_choice(item)
            base = _compose(config_name, [item.input_line or "" for item in groups])
        except UsageError:
            _check_groups(config_name, groups)  # where that is why, it says so better
            raise
        if any(item.is_add() for item in groups):  # Hydra takes them, and nothing reads them
            _check_groups(config_name, groups)
        for item in parsed:
            if item not in groups and not item.is_hydra_override():
                _check_option(item, base, function)
        if function:
            _check_removals(parsed, function)
        return base if len(groups) == len(parsed) else _compose(config_name, overrides)


def _help(config_name: str, overrides: Sequence[str], doc: str) -> str:
    where, overrides = _split_sweep(overrides)
    composed, sweep_options = compose(config_name, overrides), compose(None, where)
    # As plain data an option that has to be given is shown as "???".
    options, choices = OmegaConf.to_container(composed.options), dict(composed.choices)
    return render_help(
        CONFIG_FOLDER, config_name, options, choices, doc,
        OmegaConf.to_container(sweep_options.options["sweep"]), sweep_options.choices["sweep"],
    )  # fmt: skip


def _refuse_flags(overrides: Sequence[str]) -> None:
    for item in overrides:
        if item.startswith("-"):
            flag, equals, _ = item.partition("=")
            hint = "" if equals else _nearest(flag, FLAGS)
            raise UsageError(f"unknown flag {flag!r}: {hint or 'options are written name=value'}")
        if "=" not in item and not item.startswith("~"):
            raise UsageError(f"{item!r} is not an option: options are written name=value")


def _refuse_several(overrides: Sequence[str], why: str) -> None:
    with _hydra():
        for item in _parse(overrides):
            if item.is_sweep_override():
                raise UsageError(f"{item.key_or_group!r} takes one value: {why}")


def _note_idle(overrides: Sequence[str], composed: Composed, function: Function) -> None:
    """Say which options that the user set decide nothing under the choices made."""
    for name in (item.split("=")[0] for item in overrides):
        idle = f"${{{name}}}" not in composed.referred and name in composed.options
        if (
            idle
            and name not in composed.choices
            and name not in inspect.signature(function).parameters
        ):
            chosen = ", ".join(f"{group}={file}" for group, file in composed.choices.items())
            print(f"note: {name!r} has no effect with {chosen}", file=sys.stderr)


def _explain(error: Exception, code: int, with_traceback: bool) -> int:
    """Tell the user in one sentence; returns the exit code."""
    if with_traceback:
        traceback.print_exc()
    message = " ".join(str(error).split()) or type(error).__name__
    print(f"error: {message}", file=sys.stderr)
    return code


def _nearest(name: str, names: Sequence[str]) -> str:
    """`did you mean 'x'?`, or nothing where no name is near."""
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else ""


# ---------------------------------------------------------------------------------------- composing


def _hydra() -> Any:
    """A context in which Hydra reads `configs/`, whatever was read before."""
    GlobalHydra.instance().clear()
    return hydra.initialize_config_module("configs", version_base=HYDRA_VERSION)


def _parse(overrides: Sequence[str]) -> list[Override]:
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    parsed = []
    for text in overrides:
        try:
            parsed += parser.parse_overrides([text])
        except (OverrideParseException, HydraException):
            raise UsageError(f"cannot read {text!r}: quote special characters") from None
    return parsed


def _compose(config_name: str | None, overrides: Sequence[str]) -> Composed:
    try:
        config = hydra.compose(config_name, list(overrides), return_hydra_config=True)
        choices = {
            group: choice
            for group, choice in config.hydra.runtime.choices.items()
            if not group.startswith("hydra/")
        }
        HydraConfig.instance().set_config(config)  # for ${hydra:runtime.choices.planner}
        OmegaConf.set_struct(config, False)
        del config["hydra"]
        referred = OmegaConf.to_yaml(config)
        OmegaConf.resolve(config)
    except (HydraException, OmegaConfBaseException) as error:
        raise UsageError(str(error)) from error
    return Composed(config, choices, referred)


def _is_group(override: Override) -> bool:
    return (CONFIG_FOLDER / override.key_or_group).is_dir() and not override.is_delete()


def _check_groups(config_name: str | None, groups: Sequence[Override]) -> None:
    """Raise UsageError unless the entry file, where there is one, lets one choose in the groups."""
    if config_name is None or not groups:
        return
    plain = _compose(config_name, [])
    for group in (item.key_or_group for item in groups):
        if group not in plain.choices:
            known = flatten(OmegaConf.to_container(plain.options))
            inner = [n for n in known if n.startswith(f"{group}.") and "_target_" not in n]
            there_is = ", ".join(inner or sorted(plain.choices) or map(str, plain.options))
            raise UsageError(f"this command has no {group} to choose: there is {there_is}")


def _check_removals(overrides: Sequence[Override], function: Function) -> None:
    """Raise UsageError where `~option` takes away what `function` cannot do without."""
    given = {item.key_or_group for item in overrides if not item.is_delete()}
    parameters = inspect.signature(function).parameters
    for name in (item.key_or_group for item in overrides if item.is_delete()):
        needed = name in parameters and parameters[name].default is inspect.Parameter.empty
        if needed and name not in given:
            raise UsageError(f"option {name!r} cannot be removed: the command needs it")


def _check_choice(override: Override) -> None:
    """Raise UsageError unless the file that a `group=choice` names exists."""
    group = override.key_or_group
    if override.is_sweep_override():
        raise UsageError(f"several values for {group!r} need --multirun")
    choice = override.value()
    names = sorted(path.stem for path in (CONFIG_FOLDER / group).glob("*.yaml"))
    if choice not in names:
        listed = "choices: " + ", ".join(names)
        hint = f"{_nearest(str(choice), names)} {listed}".strip()
        raise UsageError(f"unknown {group} {str(choice)!r}: {hint}")


def _check_option(override: Override, base: Composed, function: Function | None) -> None:
    """Raise UsageError unless the option exists and the value has its type."""
    name = override.key_or_group
    known = flatten(OmegaConf.to_container(base.options))
    if name not in known:
        hint = _nearest(name, list(known)) or "--help lists the options"
        raise UsageError(f"unknown option {name!r}: {hint}")
    if override.is_delete():
        return
    if override.is_sweep_override():
        raise UsageError(f"several values for {name!r} need --multirun")
    value = override.value()
    value = value.text if isinstance(value, QuotedString) else value
    if wrong := misfit(name, _expected(name, known, function), value):
        raise UsageError(f"option {wrong}")


def _expected(name: str, known: dict[str, Any], function: Function | None) -> Any:
    """The type of an option: of a parameter, or of a value in a mapping."""
    parent, _, parameter = name.rpartition(".")
    target = known.get(f"{parent}._target_")
    if parent and target is None:
        return element_type(_expected(parent, known, function), known[name])
    return expected_type(_receiver(target) if parent else function, parameter, known[name])


def _receiver(target: str | None) -> Function | None:
    """The function or class that a `_target_` names."""
    return pkgutil.resolve_name(target) if target else None


def flatten(options: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted name to value of every option, inner nodes included: `{"a": {"b": 1}, "a.b": 1}`."""
    found: dict[str, Any] = {}
    for key, value in options.items():
        found[f"{prefix}{key}"] = value
        if isinstance(value, dict):
            found |= flatten(value, f"{prefix}{key}.")
    return found


# ------------------------------------------------------------------------------------------ calling


def _call(function: Function, options: DictConfig) -> object:
    """Build what has a `_target_` and call `function` with the options as keywords."""
    plain = _plain(options)
    # An option may serve only as a value that others refer to (`n: ${n}` in a group's file).
    accepted = inspect.signature(function).parameters
    try:
        keywords = {name: _build(v) for name, v in plain.items() if name in accepted}
    except InstantiationException as error:
        if isinstance(error.__cause__, ValueError | TypeError | OSError):
            raise UsageError(str(error.__cause__)) from error
        raise
    if "arguments" in accepted:
        keywords["arguments"] = _arguments(plain)
    return function(**keywords)


def _plain(options: DictConfig) -> dict[str, Any]:
    """All options as plain data. Raises UsageError where one has to be given."""
    absent = sorted(OmegaConf.missing_keys(options))
    if absent:
        raise UsageError(f"option {absent[0]!r} must be given: {absent[0]}=...")
    plain = typing.cast(dict[str, Any], OmegaConf.to_container(options, resolve=True))
    if isinstance(plain.get("out"), str):
        if not plain["out"].strip():
            raise UsageError("option 'out' must be a path, not empty: out=...")
        plain["out"] = plain["out"].replace("{digest}", _digest(_deciding(plain)))
    return plain


def _arguments(plain: dict[str, Any]) -> dict[str, Any]:
    """What a run is. Where it lies is no part of that: a moved folder continues."""
    return {name: value for name, value in plain.items() if name != "out"}


def _deciding(plain: dict[str, Any]) -> dict[str, Any]:
    """What decides a run's records."""
    return {name: v for name, v in _arguments(plain).items() if name not in SHOWN_ONLY}


def _digest(options: dict[str, Any]) -> str:
    """Eight hexadecimal digits, so that the default folders of two runs differ."""
    text = json.dumps(options, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _build(value: Any) -> Any:
    return instantiate(value, _convert_="all") if isinstance(value, dict) else value


# ------------------------------------------------------------------------------------------- sweeps


def _multirun(
    config_name: str, function: Function, overrides: list[str], flags: Sequence[str]
) -> None:
    """One run per combination, where `sweep=...` says; typos are found before the first.

    How it goes is told on stderr. ValueError at the end where runs failed.
    """
    where, overrides = _split_sweep(overrides)
    _refuse_several(where, "it says where all runs go")
    options = compose(None, where).options
    jobs: dict[str, Job] = {}  # by their logs
    for swept, fixed in _combinations(overrides):
        job = _job(config_name, function, swept, [*swept, *fixed, *flags])
        other = jobs.setdefault(job.log, job)
        if other != job:
            raise UsageError(
                f"{other.name!r} and {job.name!r} would write to the same place (log: {job.log}): "
                "put what differs into out=..., as ${...}"
            )
    sweep(list(jobs.values()), _build(OmegaConf.to_container(options["sweep"])), _tell)


def _split_sweep(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """The options of the sweep itself, with the choice that they belong to, and the others."""
    where = [item for item in overrides if _is_of_sweep(item)]
    if not any(item.startswith("sweep=") for item in where):
        where.insert(0, "sweep=local")
    added = [f"+{item}" if item.startswith("sweep=") else item for item in where]
    return added, [item for item in overrides if not _is_of_sweep(item)]


def _is_of_sweep(override: str) -> bool:
    return override.split("=")[0].split(".")[0] == "sweep"


def _job(config_name: str, function: Function, swept: list[str], argv: list[str]) -> Job:
    """The run of one combination; UsageError where it cannot be."""
    overrides = [item for item in argv if item not in FLAGS]
    plain = _plain(compose(config_name, overrides, function).options)
    arguments = (*program_arguments(), *argv)
    name = " ".join(swept) or "the only run"
    return Job(name, arguments, os.getcwd(), str(_log(function, plain).resolve()))


def _log(function: Function, plain: dict[str, Any]) -> Path:
    """The log of a run: in its folder, or in SWEEPS where it has none.

    A command that can do without `out` may write a file there: the log lies beside that.
    """
    out = plain.get("out")
    if out is None:
        return SWEEPS / _digest(plain) / "log.txt"
    parameter = inspect.signature(function).parameters.get("out")
    is_optional = parameter is not None and parameter.default is None
    return Path(f"{out}.log") if is_optional else Path(out, "log.txt")


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _combinations(overrides: Sequence[str]) -> Iterator[tuple[list[str], list[str]]]:
    """Every combination of the swept values as single-valued overrides, and the other overrides.

    Raises UsageError for values that cannot be listed.
    """
    fixed, values = [], []
    with _hydra():
        for item in _parse(overrides):
            if item.is_hydra_override():
                raise UsageError(f"{item.input_line!r} has no effect: sweep=... says where runs go")
            if not item.is_sweep_override():
                fixed.append(item.input_line or "")
            elif item.is_discrete_sweep():
                key = item.get_key_element()
                values.append([f"{key}={value}" for value in item.sweep_string_iterator()])
            else:
                raise UsageError(f"{item.input_line!r} has no list of values to run")
    for combination in itertools.product(*values):
        yield list(combination), fixed
