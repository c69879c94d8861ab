"""The command line as a newcomer meets it: overrides, refusals, help, several runs."""

import dataclasses
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from configs import cli
from configs.checks import expected_type, misfit
from configs.help import program_arguments, read_comments
from configs.options import option
from configs.sweeps import Job, Local, Ray, Runner
from reasoning.reasoner import Reasoner

COMMANDS = {
    "control_train": "control.train:train",
    "control_multitask": "control.multitask:train_multitask",
    "control_page": "control.page:run_page",
    "control_video": "control.video:video",
    "evals_control": "evals.control:evaluate",
    "evals_reasoning": "evals.reasoning:evaluate",
    "demo": "evals.demo:demo",
    "experiments": "evals.experiments.command:perform",
    "compare": "evals.compare:compare",
    "calibration": "evals.calibration:calibration",
    "matrix": "evals.matrix:matrix",
    "scaling": "evals.scaling.command:scaling",
    "throughput": "evals.throughput:throughput",
    "keep": "evals.keep:keep",
    "references": "evals.references:references",
    "bench": "evals.bench.command:bench",
    "reasoning_lm": "reasoning.training.lm:train_lm",
    "reasoning_scorer": "reasoning.training.scorer:train_scorer",
    "reasoning_expert": "reasoning.training.expert:expert_iteration",
}
STRATEGIES = sorted(
    path.stem
    for path in Path(cli.CONFIG_FOLDER, "strategy").glob("*.yaml")
    if path.stem != "compute_optimal"  # needs a table
)
PLANNERS = sorted(path.stem for path in Path(cli.CONFIG_FOLDER, "planner").glob("*.yaml"))


def command(
    *,
    planner: Any,
    agent: Any,
    env: str,
    out: str | Path,
    seed: int,
    frames: int,
    max_frames: int | None = None,
    arguments: dict[str, Any],
    **rest: Any,
) -> None:
    """Stands for a command: remembers its keywords."""
    if seed == 13:
        raise ValueError("thirteen\nis refused")
    if seed == 14:
        raise KeyError("a bug")
    calls.append({"planner": planner, "env": env, "seed": seed, "frames": frames, "out": out})
    calls[-1] |= {"arguments": arguments, "agent": agent, "max_frames": max_frames}


calls: list[dict[str, Any]] = []
swept: list[Job] = []
runners: list[Runner] = []


def in_this_process(jobs, runner, say) -> None:
    """Stands for `configs.sweeps.sweep`, whose tests are in `test_sweeps.py`."""
    swept.extend(jobs)
    runners.append(runner)
    for job in jobs:
        assert run(*job.arguments[len(program_arguments()) :]) == 0


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    for remembered in (calls, swept, runners):
        remembered.clear()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "sweep", in_this_process)
    yield
    assert not list(tmp_path.iterdir()), "a command leaves nothing behind that it was not asked for"


def run(*argv: str) -> int:
    return cli.run("control_train", command, "Learn something.", argv=argv)


def test_objects_are_built_and_numbers_arrive():
    assert run("planner=mppi", "planner.horizon=7", "seed=3", "env=gym/Pendulum-v1") == 0
    (call,) = calls
    assert type(call["planner"]).__name__ == "MPPI" and call["planner"].horizon == 7
    assert dataclasses.is_dataclass(call["agent"])
    assert (call["seed"], call["env"], call["max_frames"]) == (3, "gym/Pendulum-v1", None)
    assert call["out"] == "runs/control/gym/Pendulum-v1/pets-mppi-3"
    assert call["arguments"]["planner"]["horizon"] == 7
    assert call["arguments"]["seed"] == 3 and not {"hydra", "out"} & set(call["arguments"])


@pytest.mark.parametrize("planner", PLANNERS)
def test_every_planner_is_built_with_its_fields_default_types(planner):
    assert run(f"planner={planner}") == 0
    fields = {field.name for field in dataclasses.fields(calls[0]["planner"])}
    written = set(calls[0]["arguments"]["planner"]) - {"_target_"}
    assert written <= fields
    # Objects have no place in YAML, and some planners take one value of `output` only.
    fixed = {"output"} if planner in ("grad_mpc", "ilqr") else set()
    assert fields - written <= {"reduce"} | fixed


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("planer=cem", "unknown option 'planer': did you mean 'planner'?"),
        ("planner.horizn=3", "unknown option 'planner.horizn': did you mean 'planner.horizon'?"),
        ("zzz=3", "unknown option 'zzz': --help lists the options"),
        ("+sed=3", "unknown option 'sed': did you mean 'seed'?"),
        (
            "planner=cme",
            f"unknown planner 'cme': did you mean 'cem'? choices: {', '.join(PLANNERS)}",
        ),
        ("seed=one", "option 'seed' must be a whole number, not 'one'"),
        ("seed=1.5", "option 'seed' must be a whole number, not 1.5"),
        ("seed=true", "option 'seed' must be a whole number, not True"),
        ("seed=null", "option 'seed' must be a whole number, not null"),
        ("max_frames=x", "option 'max_frames' must be a whole number or null, not 'x'"),
        ("planner.init_std=big", "option 'planner.init_std' must be a number, not 'big'"),
        ("planner.output=best2", "option 'planner.output' must be best or mean, not 'best2'"),
        ("agent.hidden=200", "option 'agent.hidden' must be a list [a,b], not 200"),
        ("agent.hidden=wide", "option 'agent.hidden' must be a list [a,b], not 'wide'"),
        ("seed=1,2", "several values for 'seed' need --multirun"),
        ("planner=cem,mppi", "several values for 'planner' need --multirun"),
        ("env='", """cannot read "env='": quote special characters"""),
        ("--multrun", "unknown flag '--multrun': did you mean '--multirun'?"),
        ("--seed=3", "unknown flag '--seed': options are written name=value"),
        ("seed", "'seed' is not an option: options are written name=value"),
        ("planner.elites=1000", None),
        ("~env", "option 'env' cannot be removed: the command needs it"),
        ("~planner", "option 'planner' cannot be removed: the command needs it"),
        ("out=", "option 'out' must be a path, not empty: out=..."),
        ("+risk=cvar", "this command has no risk to choose: there is agent, planner, watch"),
    ],
)
def test_a_wrong_command_line_gets_one_sentence(argument, sentence, capsys):
    assert run(argument) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and told.startswith("error: ")
    assert sentence is None or told == f"error: {sentence}\n"
    assert not calls


@pytest.mark.parametrize(
    ("entry", "options", "sentence"),
    [
        ("evals_control", "budget.steps=abc", "'budget.steps' must be a number or null, not 'abc'"),
        ("evals_control", "budget={steps:x}", "'budget.steps' must be a number or null, not 'x'"),
        ("evals_control", "penalty=nan", "'penalty' must be a finite number, not nan"),
        ("evals_control", "risk=cvar risk.share=inf", "'risk.share' must be a finite number"),
        ("evals_reasoning", "engine_options={a:[inf]}", "'engine_options.a[0]' must be a finite"),
        ("evals_reasoning", "steps=[2,x]", "'steps[1]' must be a whole number, not 'x'"),
        ("scaling", "difficulty.probe=x", "'difficulty.probe' must be a whole number, not 'x'"),
        ("scaling", "by=[nodes,x]", "'by[1]' must be nodes or tokens, not 'x'"),
        ("matrix", "steps=[abc]", "'steps[0]' must be a whole number, not 'abc'"),
        ("matrix", "planners=[1]", "'planners[0]' must be text, not 1"),
        ("references", "frames=[abc]", "'frames[0]' must be a whole number, not 'abc'"),
        ("reasoning_lm", "problem_steps=[1]", "'problem_steps' must be a list [a,b], not [1]"),
        ("control_multitask", "data=[1]", "'data[0]' must be text or a path, not 1"),
        ("control_multitask", "data=[] agent.horizon=x", "'agent.horizon' must be a whole number"),
        ("control_train", "watch.film=5", "'watch.film' must be a mapping {a:1,b:2} or null"),
        ("control_train", "agent=mbpo agent.sac=5", "'agent.sac' must be a mapping {a:1,b:2}"),
        ("control_train", "planner=mcts planner.selection.q=5", "'planner.selection.q' must be a"),
        (
            "experiments",
            "experiment=penalty experiment.weights=[a,0.0]",
            "'experiment.weights[0]' must be a number, not 'a'",
        ),
        (
            "experiments",
            "experiment=penalty experiment.data=[foo]",
            "'experiment.data[0]' must be random or narrow, not 'foo'",
        ),
    ],
)
def test_what_lists_and_mappings_hold_is_checked(entry, options, sentence):
    with pytest.raises(cli.UsageError) as refused:
        cli.compose(entry, options.split(), pkgutil.resolve_name(COMMANDS[entry]))
    assert str(refused.value).startswith(f"option {sentence}")


def test_what_a_group_is_written_with_has_its_types():
    for path in Path(cli.CONFIG_FOLDER).glob("*/*.yaml"):
        options = cli.OmegaConf.to_container(cli.OmegaConf.load(path))
        known = cli.flatten({"group": options})
        for name, value in known.items():
            if name != "group" and not name.startswith("group.defaults") and value != "???":
                assert misfit(name, cli._expected(name, known, None), value) is None, path


@pytest.mark.parametrize(
    ("entry", "option", "there_is"),
    [
        ("matrix", "planner=cem", "planner to choose: there is model, env, out, planners, steps,"),
        ("matrix", "+planner=cem", "planner to choose: there is model, env, out, planners, steps,"),
        ("evals_control", "agent=pets", "agent to choose: there is planner, risk"),
        ("control_multitask", "agent=pets", "agent to choose: there is agent.size, agent.horizon,"),
    ],
)
def test_a_group_that_the_command_does_not_use_is_refused(entry, option, there_is):
    with pytest.raises(cli.UsageError) as refused:
        cli.compose(entry, [option])
    assert str(refused.value).startswith(f"this command has no {there_is}")


def test_elements_that_fit_are_accepted():
    def compose(entry: str, *options: str) -> Any:
        function = pkgutil.resolve_name(COMMANDS[entry])
        return cli.compose(entry, options, function).options

    assert compose("matrix", "milliseconds=[1,2.5,'${seed}']").milliseconds == [1, 2.5, 0]
    assert compose("evals_control", "budget={steps:400,seconds:0.5}").budget.seconds == 0.5
    assert compose("control_train", "watch.film=null").watch.film is None
    assert compose("evals_reasoning", "engine_options={dtype:[a,1]}").engine_options.dtype[1] == 1


def test_whole_numbers_lists_and_null_are_accepted_where_they_fit():
    assert run("planner.init_std=1", "agent.hidden=[8,8]", "max_frames=100") == 0
    assert list(calls[0]["agent"].hidden) == [8, 8]
    assert run("max_frames=null", "planner.horizon=${seed}", "seed=4", "~frames", "+frames=2") == 0
    assert calls[1]["planner"].horizon == 4


def test_refusals_of_the_command_are_one_sentence_and_bugs_are_not(capsys):
    assert run("seed=13") == 1
    assert capsys.readouterr().err == "error: thirteen is refused\n"
    assert run("seed=13", "--traceback") == 1
    assert "Traceback" in capsys.readouterr().err
    with pytest.raises(KeyError):
        run("seed=14")


def test_help_shows_options_that_have_to_be_given(capsys):
    assert cli.run("compare", command, "Compare.", argv=["--help"]) == 0
    assert "one=???" in capsys.readouterr().out


def test_help_names_every_option_with_its_meaning(capsys):
    assert run("--help", "planner=mppi", "planner.horizon=9") == 0
    text = capsys.readouterr().out
    assert "Learn something." in text and not calls
    for expected in (
        "planner.temperature=0.3",
        "planner.horizon=9",
        "model steps planned ahead",
        "planner=grad_mpc",
        "Cross-entropy method",
        "frames=100000",
        "examples",
        "--multirun",
        "sweep.workers=1",
    ):
        assert expected in text
    assert "_target_" not in text
    assert max(map(len, text.splitlines())) <= 110
    for line in text.split("examples\n")[1].splitlines():  # what help suggests can be run
        words = line.split()
        start = next(i for i, word in enumerate(words) if "=" in word or word.startswith("--"))
        assert run(*words[start:]) == 0


@pytest.fixture(autouse=True)
def terminal(monkeypatch):
    """Help is as wide as the terminal."""
    monkeypatch.setenv("COLUMNS", "100")


def help_of(entry: str, capsys, *argv: str) -> str:
    assert cli.run(entry, command, "", argv=["--help", *argv]) == 0
    return capsys.readouterr().out


def test_help_shows_what_can_be_turned_off(capsys):
    lines = help_of("control_train", capsys).splitlines()
    for name in ("tensorboard", "wandb", "film", "page"):
        (first,) = [i for i, line in enumerate(lines) if line.split()[:1] == [f"watch.{name}"]]
        assert "null: none" in " ".join(lines[first : first + 2])
    assert any("watch.film.every=1" in line for line in lines)


def test_help_has_no_empty_headings_and_speaks_of_choices_there_are(capsys):
    shown = help_of("evals_control", capsys)
    assert "options of risk=" not in shown and "risk=cvar" in shown
    assert "after planner=beam, say, it lists that one's options" in " ".join(shown.split())
    assert "planner" not in help_of("compare", capsys).split("flags\n")[1]


def test_help_shows_lists_as_they_are_given(capsys):
    shown = help_of("experiments", capsys)
    (lakes,) = [s.split()[0] for s in shown.splitlines() if s.startswith("  experiment.lakes=")]
    assert lakes == "experiment.lakes=[firm,slippery,partial,changed]"
    assert list(cli.compose("experiments", [lakes]).options.experiment.lakes)[1] == "slippery"
    assert "engine_options.a=[1,null,true]" in help_of(
        "throughput", capsys, "engine_options={a:[1,null,true]}"
    )


def test_every_option_of_every_command_has_a_meaning(capsys):
    for entry in Path(cli.CONFIG_FOLDER).glob("*.yaml"):
        comments = read_comments(entry.read_text())
        assert len(comments.examples) >= 3, entry
        assert all(comments.meanings[name] for name in comments.meanings if name != "defaults")
    for part in Path(cli.CONFIG_FOLDER).glob("*/*.yaml"):
        comments = read_comments(part.read_text())
        assert comments.summary, part
        unexplained = [name for name, meaning in comments.meanings.items() if not meaning]
        named = [name for name in unexplained if name.split(".")[-1] != "_target_"]
        assert not named, (part, named)


@pytest.mark.parametrize(("entry", "function"), COMMANDS.items())
def test_options_are_the_parameters_of_their_command(entry, function):
    called = pkgutil.resolve_name(function)
    parameters = inspect.signature(called).parameters
    options = cli.compose(entry, [], called).options
    files = [entry, *(f"{group}/*" for group in options if (cli.CONFIG_FOLDER / group).is_dir())]
    texts = [p.read_text() for name in files for p in cli.CONFIG_FOLDER.glob(f"{name}.yaml")]
    for name in set(options) - set(parameters):
        assert any(f"${{{name}}}" in text for text in texts), f"{name} is nobody's option"
    needed = {name for name, p in parameters.items() if p.default is inspect.Parameter.empty}
    assert needed <= set(options)
    for name, value in cli.flatten(cli.OmegaConf.to_container(options)).items():
        if "." not in name and value != "???":
            hint = expected_type(called, name, value)
            assert misfit(name, hint, value) is None


def test_every_entry_file_is_a_command():
    assert {path.stem for path in Path(cli.CONFIG_FOLDER).glob("*.yaml")} == set(COMMANDS)


def test_comments_are_read_from_yaml():
    head = "# What it is,\n# in two lines.\n# example: a=1\n"
    comments = read_comments(f"{head}a: 1  # first\n  # goes on\nb:\n  c: 2  # in\n")
    assert comments.summary == "What it is, in two lines."
    assert comments.examples == ["a=1"]
    assert comments.meanings == {"a": "first goes on", "b": "", "b.c": "in"}


def test_multirun_is_one_run_per_combination(tmp_path):
    assert run("--multirun", "planner=cem,mppi", "frames=100", "seed=range(2)") == 0
    assert [job.name for job in swept] == [
        "planner=cem seed=0",
        "planner=cem seed=1",
        "planner=mppi seed=0",
        "planner=mppi seed=1",
    ]
    assert [(type(c["planner"]).__name__, c["seed"], c["frames"]) for c in calls] == [
        ("CEM", 0, 100),
        ("CEM", 1, 100),
        ("MPPI", 0, 100),
        ("MPPI", 1, 100),
    ]
    folder = tmp_path / calls[3]["out"]
    assert folder == tmp_path / "runs/control/dmc/cartpole-swingup/pets-mppi-1"
    assert (swept[3].folder, swept[3].log) == (str(tmp_path), str(folder / "log.txt"))


def test_where_a_sweep_runs_is_one_switch():
    for argv in ([], ["sweep.workers=3"], ["sweep.workers=3", "sweep=ray", "sweep.gpus=0.5"]):
        assert run("-m", "seed=0,1", *argv) == 0
    assert runners == [Local(), Local(workers=3), Ray(workers=3, gpus=0.5)]
    assert swept[:2] == swept[2:4] == swept[4:]
    assert not any("sweep" in call["arguments"] for call in calls)


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["-m", "sweep=rya"], "unknown sweep 'rya': did you mean 'ray'? choices: local, ray"),
        (["-m", "sweep.worker=2"], "unknown option 'sweep.worker': did you mean 'sweep.workers'?"),
        (["-m", "sweep.workers=x"], "option 'sweep.workers' must be a whole number, not 'x'"),
        (["-m", "sweep.workers=1,2"], "'sweep.workers' takes one value: it says where all runs go"),
        (["-m", "sweep=local,ray"], "'sweep' takes one value: it says where all runs go"),
        (["-m", "--cfg", "seed=0,1"], "'seed' takes one value: --help and --cfg show one run"),
        (["-m", "--help", "seed=0,1"], "'seed' takes one value: --help and --cfg show one run"),
        (["-m", "out=", "seed=0,1"], "option 'out' must be a path, not empty: out=..."),
        (["sweep=ray", "seed=1"], "sweep=... needs --multirun"),
        (["-m", "seed=interval(0,1)"], "'seed=interval(0,1)' has no list of values to run"),
        (
            ["-m", "hydra/launcher=joblib"],
            "'hydra/launcher=joblib' has no effect: sweep=... says where runs go",
        ),
        (
            ["-m", "frames=1,2", "out=x"],
            "'frames=1' and 'frames=2' would write to the same place (log: {}/x/log.txt): "
            "put what differs into out=..., as ${...}",
        ),
    ],
)
def test_a_sweep_that_cannot_be_is_refused_before_it_starts(argv, sentence, capsys, tmp_path):
    assert run(*argv) == 2
    assert capsys.readouterr().err == f"error: {sentence.replace('{}', str(tmp_path))}\n"
    assert not swept


def test_a_run_without_a_folder_has_its_log_beside_its_file_or_among_the_sweeps(
    tmp_path, monkeypatch
):
    def measure(*, strategy: Any, seed: int, workers: int, out: str | None = None) -> None: ...

    monkeypatch.setattr(cli, "sweep", lambda jobs, runner, say: swept.extend(jobs))
    for argv in (["strategy=mcts,greedy"], ["workers=2,3"], ["seed=0,1", "out='tp-${seed}.json'"]):
        assert cli.run("throughput", measure, "", argv=["-m", *argv]) == 0
    *without, first, second = [Path(job.log) for job in swept]
    assert len(set(without)) == 4
    assert {log.parents[1] for log in without} == {tmp_path / "runs/sweeps"}
    assert (first, second) == (tmp_path / "tp-0.json.log", tmp_path / "tp-1.json.log")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_is_built_with_its_parameters_defaults(strategy):
    """As the code has it by itself."""
    built = []

    def evaluate(*, strategy: Any, arguments: dict[str, Any]) -> None:
        built.append((strategy, arguments["strategy"]))

    assert cli.run("evals_reasoning", evaluate, "", argv=[f"strategy={strategy}"]) == 0
    ((made, options),) = built
    function = pkgutil.resolve_name(options.pop("_target_"))
    parameters = inspect.signature(function).parameters
    assert set(options) == set(parameters)
    if strategy != "receding":  # says how to search
        assert made == function()


@pytest.mark.parametrize("entry", ["evals_reasoning", "scaling"])
def test_python_and_the_command_line_have_the_same_defaults(entry):
    called = pkgutil.resolve_name(COMMANDS[entry])
    options = cli.compose(entry, [], called).options
    parameters = inspect.signature(Reasoner).parameters
    shared = (set(parameters) & set(options)) - {"task", "engine", "strategy", "scorer"}
    assert {"calculator", "max_tokens", "top_p", "separator", "lm_weight"} <= shared
    for name in shared:
        assert options[name] == parameters[name].default, name
        assert options[name] == inspect.signature(called).parameters[name].default, name


@pytest.mark.parametrize(("strategy", "idle"), [("greedy", True), ("best_of_n", False)])
def test_an_option_that_decides_nothing_is_pointed_out(strategy, idle, capsys):
    def evaluate(*, strategy: Any, task: str) -> None: ...

    assert cli.run("evals_reasoning", evaluate, "", argv=[f"strategy={strategy}", "n=4"]) == 0
    note = f"note: 'n' has no effect with strategy={strategy}\n"
    assert capsys.readouterr().err == note * idle


def test_a_digest_in_the_folder_tells_commands_apart():
    def folder(*argv: str) -> str:
        assert run("out='runs/x-{digest}'", *argv) == 0
        return calls[-1]["out"]

    assert folder() == folder() and len(folder()) == len("runs/x-") + 8
    assert len({folder(), folder("seed=3"), folder("planner.horizon=7")}) == 3


def test_pages_of_trees_belong_to_the_run_they_show():
    folders = []

    def evaluate(*, strategy: Any, out: str, trees: int) -> None:
        folders.append(out)

    for trees in (0, 3):
        assert cli.run("evals_reasoning", evaluate, "", argv=[f"trees={trees}"]) == 0
    assert folders[0] == folders[1]


def test_multirun_checks_every_run_before_the_first(capsys):
    assert run("-m", "planner=cem,mpi") == 2
    assert "unknown planner 'mpi': did you mean 'mppi'?" in capsys.readouterr().err
    assert run("-m", "seed=0,x") == 2
    assert not calls


def test_cfg_prints_what_would_run(capsys):
    assert run("--cfg", "seed=5") == 0
    assert "seed: 5" in capsys.readouterr().out and not calls


def test_importing_configs_is_cheap_and_a_command_runs_from_any_folder(tmp_path):
    code = "import configs, sys; assert not {'hydra', 'torch', 'omegaconf'} & set(sys.modules)"
    root = str(Path(cli.CONFIG_FOLDER).parent)
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)
    code = (
        f"import sys; sys.path.insert(0, {root!r})\n"
        "from configs.cli import run\n"
        "sys.exit(run('control_train', print, 'doc', argv=['--help']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert "planner.horizon=16" in done.stdout


@pytest.mark.parametrize(
    "value",
    [
        "runs/a-1/b_c.pt",
        "a=b (1).pt",
        "m=8, x's",
        "it\\'s",
        "ends with \\",
        "a\\b, c",
        "[x]",
        "a b",
    ],
)
def test_an_option_is_read_as_it_was_written(value):
    composed = cli.compose("evals_control", [option("out", value)])
    assert composed.options.out == value
