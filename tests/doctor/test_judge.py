"""`verl-setpo doctor judge` against a real HTTP server: right, wrong, unsteady and broken judges, wrong arguments."""

from __future__ import annotations

import itertools
import json
from collections import Counter

import pytest
from typer.testing import CliRunner

from tests.signals.fake_server import completion, fails, free_port, says, serve
from tests.signals.judge.test_judge import seen
from verl_setpo.cli import app
from verl_setpo.doctor import environment
from verl_setpo.doctor.judge_keys import parse_settings
from verl_setpo.signals import endpoint as endpoint_module
from verl_setpo.signals.judge import JudgeSettings
from verl_setpo.signals.judge.quality import load_groups

GROUPS = load_groups()
KNOWN = {text: c for group in GROUPS for text, c in zip(group.responses, group.clusters, strict=True)}
KEY = "sk-0123456789-secret"
HOSTILE = "[red]x[/blue]\x1b[2J:warning:"


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
    monkeypatch.setattr(endpoint_module, "FIRST_WAIT_S", 0.02)


def entries(numbers):
    return completion(json.dumps({name: {"strategy": "s", "cluster_id": c} for name, c in numbers.items()}))


def oracle(body):
    # What it does not know is the question of `Judge.check`.
    known = {name: KNOWN.get(text, 0) for name, text in seen(body).items()}
    return entries({name: 100 if c < 0 else c + 1 for name, c in known.items()})


def all_together(body):
    return entries(dict.fromkeys(seen(body), 1))


def by_place(body):
    """Whatever it is asked: the first half is one strategy, the second another."""
    names = list(seen(body))
    return entries({name: 1 + (2 * i >= len(names)) for i, name in enumerate(names)})


def doctor(*arguments, **env):
    result = CliRunner().invoke(app, ["doctor", "judge", *map(str, arguments)], env={"COLUMNS": "200", **env})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def examine(server, tmp_path, *arguments, **env):
    """The command's result and the figures that it wrote."""
    path = tmp_path / "figures.json"
    result = doctor(f"base_url={server.url}", "model=judge", "max_retries=0", "--json", path, *arguments, **env)
    return result, json.loads(path.read_text()) if path.exists() else {}


def refused(*arguments, **env):
    """The one sentence of a command that asked for nothing."""
    result = doctor(*arguments, **env)
    assert result.exit_code == 1
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    return line.removeprefix("Error: ")


def pairs_of(clusters):
    return [a == b for a, b in itertools.combinations(clusters, 2)]


def test_a_right_judge_is_right_in_all_figures(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "all_checks", lambda: pytest.fail("the environment was checked"))
    with serve(oracle) as server:
        result, figures = examine(server, tmp_path, "--shuffles", 2)
    assert result.exit_code == 0
    assert (figures["pairs"]["precision"], figures["pairs"]["recall"]) == (1, 1)
    assert figures["degenerate"] == {"precision": 1, "recall": 1}
    assert (figures["stability"], figures["parse_rate"]) == (1, 1)
    assert (figures["groups"], figures["shuffles"], figures["failed"], figures["findings"]) == (len(GROUPS), 2, {}, [])
    assert set(figures["by_tag"]) == {group.tag for group in GROUPS}
    assert (figures["tokens"], figures["tokens_a_step_of_128_prompts"]) == (15, 128 * 15)
    assert len(server.asked) == 1 + 2 * len(GROUPS)
    assert "Nothing measured here is bad by our rule of thumb" in result.stdout
    assert "Estimate: 128 prompts a step are 1,920 tokens" in result.stdout


def test_one_who_puts_all_together_has_the_precision_of_brute_force(tmp_path):
    same = {group.tag: 0 for group in GROUPS}
    pairs = dict(same)
    for group in GROUPS:
        together = pairs_of(group.clusters)
        same[group.tag] += sum(together)
        pairs[group.tag] += len(together)
    with serve(all_together) as server:
        result, figures = examine(server, tmp_path, "--shuffles", 2)
    assert result.exit_code == 0
    assert figures["pairs"]["recall"] == figures["stability"] == 1
    assert figures["pairs"]["precision"] == pytest.approx(sum(same.values()) / sum(pairs.values()))
    assert figures["degenerate"] == {"precision": None, "recall": 0}
    for tag, found in figures["by_tag"].items():
        assert found["precision"] == pytest.approx(same[tag] / pairs[tag])
    named = [finding.split(" 0.")[0] for finding in figures["findings"]]
    assert named == ["precision", "degenerate recall", "precision under injection"]
    assert all(f"- {finding}" in result.stdout for finding in figures["findings"])


def test_one_who_goes_by_the_order_is_as_unsteady_as_brute_force_says(tmp_path):
    with serve(by_place) as server:
        _, figures = examine(server, tmp_path)
        answers = {}  # of each question and its responses, whether each pair of them is together, once a shuffle
        for body in server.asked[1:]:
            names = list(seen(body))
            found = {text: 2 * i >= len(names) for i, text in enumerate(seen(body).values())}
            answers.setdefault(tuple(sorted(found)), []).append(pairs_of([found[text] for text in sorted(found)]))
    agreements = []
    for runs in answers.values():
        assert len(runs) == 3
        same = [a == b for one, other in itertools.combinations(runs, 2) for a, b in zip(one, other, strict=True)]
        agreements.append(sum(same) / len(same))
    assert len(agreements) == len(GROUPS)
    assert figures["stability"] == pytest.approx(sum(agreements) / len(agreements))
    assert any(finding.startswith("stability") for finding in figures["findings"])


def test_answers_that_break_the_schema_are_counted(tmp_path):
    with serve(oracle) as server:
        server.then = [oracle, says("I think"), says("that")]
        result, figures = examine(server, tmp_path, "--limit", 5, "--shuffles", 1)
    assert result.exit_code == 0
    assert figures["parse_rate"] == pytest.approx(5 / 7)
    assert figures["stability"] is None
    assert [finding.split()[0] for finding in figures["findings"]] == ["parse"]
    assert "enforce response_format" in result.stdout


def test_one_who_answers_garbage_is_found_out_at_once():
    with serve(says("All of them are fine!")) as server:
        message = refused(f"base_url={server.url}", "model=judge", "bad_answer_retries=0")
        assert message.startswith("model=judge cannot judge: ")
        assert len(server.asked) == 1


def test_when_every_call_fails_the_figures_say_why_and_the_status_is_1(tmp_path):
    with serve(fails(400, HOSTILE)) as server:
        server.then = [oracle]
        result, figures = examine(server, tmp_path, "--limit", 3, "--shuffles", 2)
    assert result.exit_code == 1
    assert figures["failed"] == {"refused": 6}
    assert figures["pairs"]["precision"] is figures["seconds"] is figures["parse_rate"] is None
    assert "refused, 6 calls, the first: " in result.stdout
    assert "[red]x[/blue]" in result.stdout
    assert ":warning:" in result.stdout
    assert "\x1b" not in result.stdout
    assert "6 of 6 calls gave no verdict" in result.stdout


def test_when_some_calls_fail_the_status_is_0(tmp_path):
    with serve(oracle) as server:
        server.then = [oracle, fails(400)]
        result, figures = examine(server, tmp_path, "--limit", 3, "--shuffles", 1)
    assert result.exit_code == 0
    assert figures["failed"] == {"refused": 1}
    assert (figures["pairs"]["precision"], figures["pairs"]["recall"]) == (1, 1)


def test_a_wrong_key_is_one_sentence_and_is_never_shown():
    with serve(oracle, key="another") as server:
        message = refused(f"base_url={server.url}", "model=judge", "api_key_env=JUDGE_KEY", JUDGE_KEY=KEY)
        assert message == f"base_url={server.url} refuses the key: api_key_env holds a wrong one."


def test_the_key_is_sent_and_not_shown_though_a_server_repeats_it(tmp_path):
    with serve(fails(400, f"Bearer {KEY} is over its limit"), key=KEY) as server:
        server.then = [oracle]
        result, figures = examine(server, tmp_path, "--limit", 2, "api_key_env=JUDGE_KEY", JUDGE_KEY=KEY)
        assert {headers["authorization"] for headers in server.headers} == {f"Bearer {KEY}"}
    assert figures["failed"] == {"refused": 6}
    assert "is over its limit" in result.stdout
    assert KEY not in result.output + json.dumps(figures)


def test_a_server_that_is_down():
    url = f"http://127.0.0.1:{free_port()}/v1"
    assert refused(f"base_url={url}", "model=judge").startswith(f"base_url={url} cannot be reached")


def test_a_model_that_is_not_served_and_names_that_are_hostile():
    with serve(oracle, models=[HOSTILE]) as server:
        message = refused(f"base_url={server.url}", "model=judge")
        assert message.startswith(f"model=judge is not served by {server.url}; it has [red]x[/blue]")
        assert "\x1b" not in message


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        (f"api_key={KEY}", "api_key is not a key of the judge; its keys are base_url, model, "),
        ("algorithm.set_rl.coef=5", "algorithm.set_rl.coef is not a key of the judge"),
        (f"api_key_env={KEY}", "api_key_env must be the name of an environment variable"),
        (f"api_key_env={KEY.replace('-', '_')}", "api_key_env names an environment variable that is not set"),
        (f"base_url=http://me:{KEY}@host/v1", "base_url must be a plain URL without user"),
        (f"base_url=http://host/v1?key={KEY}", "base_url: its value cannot be read"),
        (f"base_url='http://host/v1?key={KEY}'", "base_url must be a plain URL without user"),
        (KEY, "Argument 3 is not KEY=VALUE"),
        (f"model={KEY},{KEY}", "model has several values"),
        (f"model=[{KEY}", "model: its value cannot be read"),
        (f"model='${{{KEY}'", "model: its value cannot be read"),
        ("model=${other.key}", "A value with ${...} cannot be resolved here"),
        ("a@b=c", "a@b is no key"),
        ("~model=judge", "~model is no key"),
        ("concurrency=many", "concurrency: Input should be a valid integer"),
    ],
)
def test_a_wrong_argument_is_named_without_its_value(argument, message):
    found = refused("base_url=http://127.0.0.1:9/v1", "model=judge", argument)
    assert message in found
    assert KEY not in found
    assert KEY.replace("-", "_") not in found


def test_a_recipes_lines_can_be_pasted():
    lines = (
        "+algorithm.set_rl.signal.name=judge",
        "algorithm.set_rl.signal.kind=endpoint",
        "++algorithm.set_rl.signal.keep_s=60",
        "algorithm.set_rl.signal.base_url=[http://a:1/v1,http://b:2/v1]",
        "+algorithm.set_rl.signal.model=Qwen/Qwen3-4B-Instruct-2507",
        "wait_s=5",
        "shards=1",
        "max_memory_mb=10",
        "num_cpus=1",
        "temperature=1e-1",
        "api_key_env=null",
        "+algorithm.set_rl.signal.extra_body={chat_template_kwargs:{enable_thinking:false}}",
        "extra_body.top_k=20",
    )
    assert parse_settings(lines) == JudgeSettings(
        base_url=["http://a:1/v1", "http://b:2/v1"],
        model="Qwen/Qwen3-4B-Instruct-2507",
        temperature=0.1,
        extra_body={"chat_template_kwargs": {"enable_thinking": False}, "top_k": 20},
    )


def test_groups_of_ones_own_with_hostile_tags_and_a_hostile_model(tmp_path):
    path = tmp_path / "mine.jsonl"
    group = {"question": "q", "responses": ["a", "b"], "clusters": [0, 0], "tag": HOSTILE}
    path.write_text("\n".join(json.dumps(group | change) for change in ({}, {"tag": "", "clusters": [0, 1]})))
    with serve(all_together, models=[HOSTILE]) as server:
        result, figures = examine(server, tmp_path, f"model='{HOSTILE}'", "--groups", path, "--shuffles", 1)
    assert result.exit_code == 0
    assert figures["pairs"]["precision"] == 0.5
    assert figures["by_tag"][HOSTILE]["precision"] == 1
    assert result.stdout.count("[red]x[/blue]\\x1b[2J:warning:") == 2
    assert "(no tag)" in result.stdout
    assert "\x1b" not in result.stdout


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"question": ', "line 2: no JSON (Expecting value"),
        ("[" * 100_000, "line 2: no JSON ("),
        ('{"question": "q", "responses": ["a"], "clusters": []}', "line 2: 0 clusters for 1 responses"),
        ('{"question": "q", "responses": ["a"]}', "line 2: clusters: Field required"),
        ('{"question": "q", "responses": ["a", 1], "clusters": [0, 0]}', "line 2: responses.1: Input should be"),
        (b"\xff", "is not UTF-8 text"),
        (None, "cannot be read (No such file or directory)"),
    ],
)
def test_a_wrong_file_is_named_before_anyone_is_asked(tmp_path, line, message):
    path = tmp_path / "mine.jsonl"
    if line is not None:
        rest = line if isinstance(line, bytes) else line.encode()
        path.write_bytes(b'{"question": "q", "responses": ["a"], "clusters": [0]}\n' + rest + b"\n")
    with serve(oracle) as server:
        found = refused(f"base_url={server.url}", "model=judge", "--groups", path)
        assert server.asked == []
    assert str(path) in found
    assert message in found


@pytest.mark.parametrize("where", ["", "missing/figures.json"])
def test_a_place_that_cannot_be_written_costs_no_call(tmp_path, where):
    with serve(oracle) as server:
        found = refused(f"base_url={server.url}", "model=judge", "--json", tmp_path / where)
        assert found.startswith(f"--json {tmp_path / where} cannot be written")
        assert server.asked == []


def test_a_limit_takes_of_all_tags(tmp_path):
    with serve(oracle) as server:
        _, figures = examine(server, tmp_path, "--limit", 10, "--shuffles", 1)
        tags = {tuple(sorted(group.responses)): group.tag for group in GROUPS}
        asked = Counter(tags[tuple(sorted(seen(body).values()))] for body in server.asked[1:])
    assert figures["groups"] == 10
    assert asked == dict.fromkeys({group.tag for group in GROUPS}, 2)
