"""Jobs of a sweep: apart from each other, at once, told about, ended with the sweep."""

import os
import signal
import subprocess
import sys
import time
from concurrent import futures
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from configs.sweeps import Job, Local, Outcome, Ray, run_job, sweep

ROOT = Path(__file__).parents[1]


@pytest.fixture
def job(tmp_path):
    """Makes jobs out of Python code; their folder is empty, their logs beside it."""
    (tmp_path / "work").mkdir()

    def make(name: str, code: str) -> Job:
        return Job(name, ("-c", code), str(tmp_path / "work"), str(tmp_path / name / "log.txt"))

    return make


def fails(jobs, runner=None, **options) -> list[str]:
    """What is told by a sweep in which jobs fail."""
    told: list[str] = []
    with pytest.raises(ValueError, match="runs failed; the same command tries them again"):
        sweep(jobs, runner or Local(), told.append, **options)
    return told


def test_failures_are_told_with_sentence_and_log_and_the_others_are_kept(job):
    jobs = [
        job("first", "print('starting'); print('reached 800')"),
        job("refused", "import sys; print('error: thirteen is refused'); print('x'); sys.exit(1)"),
        job("bug", "print('going'); {}['key']"),
        job("last", "print('reached 900')"),
    ]
    told = [line.partition("] ")[2] or line for line in fails(jobs)]
    assert told == [
        "done: first: reached 800",
        "failed: refused: thirteen is refused",
        "failed: bug: KeyError: 'key'",
        "done: last: reached 900",
        f"failed: refused: thirteen is refused (log: {jobs[1].log})",
        f"failed: bug: KeyError: 'key' (log: {jobs[2].log})",
    ]
    log = Path(jobs[2].log).read_text()
    assert log.startswith("$ python -c print('going')") and "Traceback" in log and "going\n" in log


def test_a_killed_job_is_started_once_more_and_no_failed_one_is(job):
    mark = "open('{}', 'a').write('x')\nimport os, sys\n"
    once = "if os.path.getsize('once') == 1: os.kill(os.getpid(), 9)\nprint('done at last')"
    jobs = [
        job("once", mark.format("once") + once),
        job("always", mark.format("always") + "os.kill(os.getpid(), 9)"),
        job("fails", mark.format("fails") + "sys.exit(3)"),
    ]
    told = fails(jobs, Local(workers=2))
    runs = {j.name: len(Path(j.folder, j.name).read_text()) for j in jobs}
    assert runs == {"once": 2, "always": 2, "fails": 1}
    assert sum("again: " in line for line in told) == 2
    assert [line.partition(" (log")[0] for line in told[-2:]] == [
        "failed: always: killed by SIGKILL",
        "failed: fails: nothing was printed",
    ]
    assert Path(jobs[0].log).read_text().count("$ python") == 2  # the first attempt's is kept


MEET = """
import os, time
open('{me}', 'w').close()
end = time.monotonic() + {patience}
while time.monotonic() < end and not os.path.exists('{other}'):
    time.sleep(0.01)
assert os.path.exists('{other}'), 'nobody came'
"""


def test_as_many_jobs_run_at_once_as_there_are_workers(job):
    pair = [
        job("a", MEET.format(me="a", other="b", patience=60)),
        job("b", MEET.format(me="b", other="a", patience=60)),
    ]
    sweep(pair, Local(workers=2), print)
    alone = [
        job("c", MEET.format(me="c", other="d", patience=0.3)),
        job("d", MEET.format(me="d", other="c", patience=0)),
    ]
    told = fails(alone, Local(workers=1))
    assert told[-1].startswith("failed: c: AssertionError: nobody came")


def test_cores_are_shared_out_unless_the_user_says_how_many(job, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    show = job("show", "import os; print(os.environ['OMP_NUM_THREADS'])")

    def threads(workers: int) -> str:
        told: list[str] = []
        sweep([show], Local(workers=workers), told.append)
        return told[0].rpartition(": ")[2]

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert [threads(workers) for workers in (1, 4, 12)] == ["6", "1", "1"]
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert threads(3) == "5"
    with pytest.raises(ValueError, match=r"sweep\.workers must be at least 1, not 0"):
        sweep([show], Local(workers=0), print)


def test_running_jobs_are_told_about(job):
    told: list[str] = []
    slow = job("slow", "import time; time.sleep(0.5); print('half way'); time.sleep(0.5)")
    sweep([slow], Local(), told.append, every=0.2)
    running = [line for line in told if line.startswith("  running: slow: ")]
    assert running[0].endswith("starting") and running[-1].endswith("half way")
    assert told[-1].endswith("done: slow: half way")


def test_a_running_job_may_have_an_empty_log(job):
    future: futures.Future[Outcome] = futures.Future()
    told: list[str] = []

    class Holds(Local):
        """Runs nothing: the log is empty until the job was told about."""

        @contextmanager
        def start(self):
            Path(empty.log).parent.mkdir()
            Path(empty.log).touch()
            os.utime(empty.log, (time.time() + 60,) * 2)
            yield lambda job: future

    def say(line: str) -> None:
        told.append(line)
        if "running" in line:
            future.set_result(Outcome(0, "at last"))

    empty = job("empty", "")
    sweep([empty], Holds(), say, every=0.01)
    assert told[0] == "  running: empty: starting" and told[1].endswith("done: empty: at last")


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_jobs_end_with_their_sweep_however_it_ends(sent, tmp_path):
    if sent == signal.SIGKILL and sys.platform != "linux":
        pytest.skip("only Linux ends a process with its parent")
    script = tmp_path / "command.py"
    script.write_text(f"""
import sys, time
sys.path.insert(0, {str(ROOT)!r})
from configs import cli
def command(*, seed: int, **rest):
    open(f"{{seed}}.started", "w").close()
    time.sleep(3)
    open(f"{{seed}}.done", "w").close()
if __name__ == "__main__":
    sys.exit(cli.run("demo", command, ""))
""")
    argv = [sys.executable, str(script), "-m", "seed=0,1,2", "sweep.workers=2", "out='x-${seed}'"]
    process = subprocess.Popen(
        argv,
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        # Started in the background of a shell, the tests themselves ignore SIGINT.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    while not (tmp_path / "0.started").exists() or not (tmp_path / "1.started").exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    process.send_signal(sent)
    _, told = process.communicate()
    assert process.returncode == (130 if sent == signal.SIGINT else -sent)
    time.sleep(3.2)
    assert not [*tmp_path.glob("*.done")]
    assert not (tmp_path / "2.started").exists()
    ending = "ending the running jobs; interrupt again to end them at once\ninterrupted\n"
    assert told == (ending if sent == signal.SIGINT else "")


def test_a_run_that_cannot_start_is_a_failed_job(job, tmp_path):
    lost = job("lost", "print(1)")._replace(folder=str(tmp_path / "nowhere"))
    told = fails([lost, job("fine", "print(2)")])
    assert "lost: [Errno 2] No such file or directory" in told[-1]
    assert run_job(job("fine", "print(2)")).code == 0


def test_ray_runs_two_at_once_and_survives_what_dies(job):
    pytest.importorskip("ray")
    pair = [
        job("a", MEET.format(me="a", other="b", patience=60) + "print('met')"),
        job("b", MEET.format(me="b", other="a", patience=60) + "print('met')"),
    ]
    bad = [
        job("refused", "import sys; print('error: thirteen is refused'); sys.exit(1)"),
        job("killed", "import os; os.kill(os.getpid(), 9)"),
        job("worker", "import os; os.kill(os.getppid(), 9)"),  # a machine that is lost
    ]
    told = fails([*pair, *bad], Ray(workers=2, retries=1))
    ends = sorted(line.partition("] ")[2] for line in told if line.startswith("["))
    assert [line for line in ends if not line.startswith("again")] == [
        "done: a: met",
        "done: b: met",
        "failed: killed: killed by SIGKILL",
        "failed: refused: thirteen is refused",
        *[line for line in ends if line.startswith("failed: worker: lost: ")],
    ]
    assert [line.split(": ")[1] for line in ends if line.startswith("again")] == [
        "killed",
        "worker",
    ]


@pytest.mark.slow
def test_training_on_two_ray_workers_and_the_failed_run_again_on_this_machine(tmp_path):
    pytest.importorskip("ray")
    options = (
        "env=gym/Pendulum-v1 max_frames=50 frames=200 eval_frames=100 eval_episodes=1 watch=none "
        "agent.random_frames=100 agent.hidden=[4] agent.members=2 agent.epochs=2 planner.samples=8 "
        "planner.elites=2 planner.iterations=1 planner.horizon=2"
    )
    command = [sys.executable, "-m", "control.train", "--multirun", "seed=0,1", *options.split()]
    command.append(f"out='{tmp_path}/${{seed}}'")
    (tmp_path / "1").mkdir()
    (tmp_path / "1/arguments.json").write_text("{}")
    (tmp_path / "1/checkpoint.pt").write_text("another run's")

    def run(*more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, *more], cwd=ROOT, capture_output=True, text=True)

    done = run("sweep=ray", "sweep.workers=2")
    assert done.returncode == 1, done.stderr
    *told, failed, error = done.stderr.splitlines()
    assert any("done: seed=0: done after 200 frames" in line for line in told)
    assert failed.startswith(f"failed: seed=1: {tmp_path}/1 holds a run with ")
    assert failed.endswith(f"choose another folder (log: {tmp_path}/1/log.txt)")
    assert error == "error: 1 of 2 runs failed; the same command tries them again"
    metrics = (tmp_path / "0/metrics.csv").read_text()
    (tmp_path / "1/checkpoint.pt").unlink()
    done = run("sweep=local", "sweep.workers=2")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("] done: seed=") == 2
    assert (tmp_path / "0/metrics.csv").read_text() == metrics  # there was nothing left to do
    assert len((tmp_path / "1/metrics.csv").read_text().splitlines()) == 3
