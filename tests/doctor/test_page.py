"""The page of `verl-setpo doctor`: one check harms no other, nothing secret is shown, 80 columns, the exit status."""

from __future__ import annotations

import io
import json
import sys

import pytest
from rich.console import Console
from typer.testing import CliRunner

from verl_setpo.cli import app
from verl_setpo.doctor import page
from verl_setpo.doctor.check import Check, isolated, secrets_of, sentence, without_secrets

WELL = Check("first", "ok", "as it should be [bold]")
NOTE = Check("second", "note", "a little odd", "Leave it.")
BAD = Check("third", "fail", "missing", "Install it.")
UNDONE = Check("fourth", "not done", "no GPU here")
HOSTILE = Check("fifth", "fail", "[red]x[/blue]\x1b[2J:warning:", "\x1b]0;title\x07")
LONG = Check("trainer mode", "fail", "algorithm.set_rl.signal.base_url=" + "x" * 200, "Mend it. " * 20)


@pytest.fixture
def doctor(monkeypatch):
    """The command over the given checks; `asked` has what it was asked."""

    def run(checks, *arguments):
        def examine(asked, on_check):
            run.asked = asked
            on_check("first")
            return iter(checks)

        monkeypatch.setattr(page, "examine", examine)
        return CliRunner().invoke(app, ["doctor", *map(str, arguments)], env={"COLUMNS": "80"})

    return run


def test_all_is_printed_and_neither_a_note_nor_what_could_not_be_done_fails(doctor):
    result = doctor([WELL, NOTE, UNDONE])
    assert result.exit_code == 0
    for text in ("as it should be [bold]", "a little odd", "Leave it.", "no GPU here", "1 ok, 1 note, 1 not done in"):
        assert text in result.stdout


def test_one_failed_check_is_exit_status_1_with_its_cure(doctor):
    result = doctor([WELL, BAD])
    assert result.exit_code == 1
    assert "Install it." in result.stdout


def test_quiet_leaves_out_what_is_well_or_not_done(doctor):
    assert doctor([WELL, UNDONE], "--quiet").stdout == ""
    result = doctor([WELL, NOTE, BAD], "--quiet")
    assert result.exit_code == 1
    assert "first" not in result.stdout
    assert "Leave it." in result.stdout
    assert "Install it." in result.stdout


def test_no_line_is_longer_than_80_columns_and_no_text_moves_the_cursor_or_is_markup(doctor):
    result = doctor([WELL, NOTE, BAD, UNDONE, HOSTILE, LONG])
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert "\x1b" not in result.stdout
    assert "[red]x[/blue]\\x1b[2J:warning:" in result.stdout


def test_json_has_what_the_page_says(doctor, tmp_path):
    path = tmp_path / "findings.json"
    assert doctor([WELL, BAD], "--json", path).exit_code == 1
    written = json.loads(path.read_text())
    assert written["well"] is False
    assert written["checks"][1] == {
        "name": "third",
        "status": "fail",
        "found": "missing",
        "cure": "Install it.",
        "seconds": 0.0,
    }


def test_a_json_file_that_cannot_be_written_is_refused_before_anything_is_checked(doctor, tmp_path):
    result = doctor([WELL], "--json", tmp_path / "none" / "x.json")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "cannot be written" in result.stderr


def test_words_and_options_come_in_any_order(doctor, tmp_path):
    words = ["+set_rl=set_loo", "data.train_files=['a b.parquet']", "~trainer.device"]
    doctor([WELL], words[0], "--no-ray", words[1], "--rows", 3, words[2], "--recipe", "run.sh")
    assert run_of(doctor) == (words, False, 3, "run.sh")
    doctor([WELL])
    assert run_of(doctor) == ([], True, 16, "None")


def run_of(doctor):
    asked = doctor.asked
    return list(asked.words), asked.ray, asked.rows, str(asked.recipe)


def test_what_is_neither_word_nor_command_is_refused():
    assert CliRunner().invoke(app, ["doctor", "jduge"]).exit_code == 2
    assert CliRunner().invoke(app, ["doctor", "+set_rl=set_loo", "jduge"]).exit_code == 2


class TestIsolation:
    @pytest.mark.parametrize(
        ("error", "says"),
        [
            (ValueError("data.train_files: there is no file"), "data.train_files: there is no file"),
            (SystemExit("verl_setpo: +set_rl=x would be ignored"), "+set_rl=x would be ignored"),
            (KeyError("reward_model"), "KeyError: 'reward_model'"),
            (AssertionError(), "AssertionError"),
            (RuntimeError("one\n\n  two"), "RuntimeError: one two"),
        ],
    )
    def test_what_a_check_raises_is_a_failed_check_with_a_sentence(self, error, says):
        def check():
            yield Check("begun", "ok", "")
            raise error

        begun, found = isolated("rewards", check)
        assert begun.name == "begun"
        assert (found.name, found.status, found.found) == ("rewards", "fail", says)

    def test_an_interrupt_ends_all(self):
        def check():
            raise KeyboardInterrupt
            yield

        with pytest.raises(KeyboardInterrupt):
            isolated("rewards", check)

    def test_what_a_check_prints_is_dropped(self, capsys):
        def check():
            print("chatter")
            print("more", file=sys.stderr)
            yield WELL

        assert [found.found for found in isolated("x", check)] == [WELL.found]
        assert capsys.readouterr() == ("", "")

    def test_a_check_that_breaks_leaves_the_others_their_turn(self, monkeypatch):
        def broken():
            raise OSError("the disk is gone")

        for name in ("_environment", "_plugin", "_groups"):
            monkeypatch.setattr(page, name, lambda: [WELL])
        monkeypatch.setattr(page, "_config", lambda setup, recipe: broken())
        found = {check.name: check for check in page.examine(page.Asked(words=["a=1"], ray=False))}
        assert found["config"].found == "OSError: the disk is gone"
        assert list(found)[-1] == "Ray worker"
        assert {found[name].status for name in ("keys", "rewards", "signal", "advantages")} == {"not done"}

    def test_a_long_message_is_cut(self):
        assert len(sentence(ValueError("x" * 10_000))) < 1000


class TestSecrets:
    WORDS = (
        "algorithm.set_rl.signal.api_key=sk-canary-71d3",
        "+reward.custom_reward_function.reward_kwargs.hf_token='hf_canary_1f'",
        "data.prompt_key=messages",
        "algorithm.set_rl.signal.max_tokens=12345678",
    )

    def test_values_of_keys_are_shown_nowhere(self, monkeypatch):
        monkeypatch.setenv("DOCTOR_JUDGE_KEY", "sk-canary-in-environment")
        secrets = secrets_of(self.WORDS)
        check = Check("x", "fail", f"{self.WORDS} Bearer sk-canary-in-environment", "as sk-canary-71d3 says")
        shown = without_secrets(check, secrets)
        assert "canary" not in shown.found + shown.cure
        assert "messages" in shown.found  # the name of a column
        assert "12345678" in shown.found

    def test_nor_are_those_in_an_address(self):
        check = Check("x", "fail", "http://me:canary@host/v1 and https://host/v1?model=a&api_key=canary&x=1", "")
        assert without_secrets(check, []).found == "http://***@host/v1 and https://host/v1?model=a&api_key=***&x=1"


def test_the_table_of_a_narrow_terminal_fits_it():
    out = io.StringIO()
    page.print_page(Console(file=out, width=60), [WELL, LONG], 1.0, quiet=False)
    assert max(map(len, out.getvalue().splitlines())) <= 60
