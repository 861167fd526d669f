"""The published sets from a hub: real `datasets` and huggingface_hub, over HTTP, against a server of ours."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.tasks import fake_hub
from tests.tasks.set_shapes import SHAPES, write
from verl_setpo.tasks.math_sets import COUNTDOWN, SETS


@dataclass(frozen=True)
class Hub:
    """A server for the repositories below `repositories`, and a user of it with an empty cache."""

    repositories: Path
    address: str
    home: Path

    def run(self, *arguments: object, offline: bool = False) -> subprocess.CompletedProcess:
        environment = {
            **os.environ,
            "HF_ENDPOINT": self.address,
            "HF_HOME": str(self.home),
            "HF_HUB_OFFLINE": str(int(offline)),
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }
        command = [sys.executable, "-m", "verl_setpo.cli", "data", *map(str, arguments)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def hub(tmp_path_factory) -> Iterator[Hub]:
    folder = tmp_path_factory.mktemp("hub")
    for entry in (*SETS.values(), COUNTDOWN):
        write(entry.name, folder / "repositories" / entry.hub)
    (folder / "repositories" / SETS["aime25"].hub / "GATED").touch()
    command = [sys.executable, fake_hub.__file__, str(folder / "repositories")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        yield Hub(folder / "repositories", f"http://127.0.0.1:{server.stdout.readline().strip()}", folder / "home")
        server.terminate()


def answers_of(out: Path, split: str) -> list[str]:
    return [row["reward_model"]["ground_truth"] for row in pq.read_table(out / f"{split}.parquet").to_pylist()]


# One with a configuration, one with some files of many, one with its test set as "train", one of JSON lines.
@pytest.mark.parametrize("name", ["gsm8k", "simplerl-hard", "hmmt-feb25", "polaris"])
def test_a_set_comes_from_the_hub_with_its_commit(name: str, hub: Hub, tmp_path: Path) -> None:
    done = hub.run(name, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    for split, expected in SHAPES[name].expected.items():
        assert answers_of(tmp_path / "out", split) == [answer for _, answer in expected]
    source = json.loads((tmp_path / "out" / "dataset.json").read_text())["source"]
    assert source == {"hub": SETS[name].hub, "config": SETS[name].config, "revision": None, "commit": fake_hub.COMMIT}


@pytest.mark.parametrize("name", ["gsm8k", "simplerl-hard"])
def test_what_hf_download_wrote_will_do_where_there_is_no_internet(name: str, hub: Hub, tmp_path: Path) -> None:
    """The command that the error without internet names; and the cache that it leaves when it is given no folder."""
    command = [Path(sys.executable).with_name("hf"), "download", "--repo-type", "dataset", SETS[name].hub]
    environment = {**os.environ, "HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
    for more in (["--local-dir", tmp_path / "copy"], []):
        subprocess.run([*command, *more], env=environment, capture_output=True, check=True)
    cache = tmp_path / "home" / "hub" / f"datasets--{SETS[name].hub.replace('/', '--')}"
    for number, copy in enumerate((tmp_path / "copy", cache, cache / "snapshots" / fake_hub.COMMIT)):
        out = tmp_path / str(number)
        done = hub.run(name, "--out", out, "--local-path", copy, offline=True)
        assert done.returncode == 0, done.stderr
        for split, expected in SHAPES[name].expected.items():
            assert answers_of(out, split) == [answer for _, answer in expected]
        source = json.loads((out / "dataset.json").read_text())["source"]
        assert source == {"local_path": str(copy), "commit": fake_hub.COMMIT}


def test_countdown_comes_from_the_hub(hub: Hub, tmp_path: Path) -> None:
    arguments = ["--source", "hub", "--train-size", 2, "--test-size", 1, "--revision", fake_hub.COMMIT]
    done = hub.run("countdown", "--out", tmp_path / "out", *arguments)
    assert done.returncode == 0, done.stderr
    assert (
        done.stdout == f"{tmp_path / 'out'}: 2 training and 1 test prompts; dropped 1 (the problem of an earlier row)\n"
    )
    source = json.loads((tmp_path / "out" / "dataset.json").read_text())["source"]
    assert source["revision"] == source["commit"] == fake_hub.COMMIT


def test_without_internet_the_cache_will_do_but_no_other_revision_than_the_one_asked_for(
    hub: Hub, tmp_path: Path
) -> None:
    assert hub.run("minerva", "--out", tmp_path / "online", "--revision", "main").returncode == 0
    assert hub.run("minerva", "--out", tmp_path / "cached", offline=True).returncode == 0
    assert answers_of(tmp_path / "cached", "test") == answers_of(tmp_path / "online", "test")
    done = hub.run("minerva", "--out", tmp_path / "other", "--revision", "1" * 40, offline=True)
    assert done.returncode == 2
    assert (
        f"error: --revision {'1' * 40} of math-ai/minervamath is not in the hub's cache, and the hub cannot"
        in done.stderr
    )
    assert not (tmp_path / "other").exists()


def test_no_internet_and_no_cache_name_the_ways_out(hub: Hub, tmp_path: Path) -> None:
    done = hub.run("college-math", "--out", tmp_path / "out", offline=True)
    assert done.returncode == 2
    (sentence,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    for word in (
        "di-zhang-fdu/College_Math_Test could not be fetched from the hub",
        "hf download --repo-type dataset di-zhang-fdu/College_Math_Test --local-dir DIR",
        "--local-path DIR",
        "HF_ENDPOINT",
    ):
        assert word in sentence


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["aime25"],
            "math-ai/aime25 is gated on the hub: accept its terms on https://huggingface.co/datasets/math-ai/",
        ),
        (["aime24", "--revision", "v9"], "--revision v9 is no branch, tag or commit of math-ai/aime24: give another"),
        (
            ["amc23"],
            "the hub has no math-ai/amc23 that you may read: log in with `hf auth login`, or give --local-path",
        ),
        (["math500"], "HuggingFaceH4/MATH-500 has the splits 'train' and no 'test', which math500 needs: give another"),
        (["olympiad"], "olympiad's test split has the columns 'question', 'gold' and none of 'final_answer': give"),
    ],
)
def test_what_the_hub_refuses_or_has_no_more_is_one_sentence(
    arguments: list[str], sentence: str, hub: Hub, tmp_path: Path
) -> None:
    repository = hub.repositories / SETS[arguments[0]].hub
    if arguments[0] == "amc23":
        shutil.rmtree(repository)
    if arguments[0] == "math500":
        (repository / "test.jsonl").rename(repository / "train.jsonl")
    if arguments[0] == "olympiad":
        (repository / "test.jsonl").write_text('{"question": "1 + 1?", "gold": "2"}\n')
    done = hub.run(*arguments, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert f"error: {sentence}" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
