"""Whatever a kill leaves of a file of samples: none is lost, none is doubled, and nothing foreign is taken for one."""

from __future__ import annotations

import json
import random

import pytest

from verl_setpo.evaluate.journal import Journal, Key, encode, remove_cut_line, sample_seed

ROWS, N = 3, 4
KEYS = [Key(row, sample) for row in range(ROWS) for sample in range(N)]


def journal(tmp_path, n=N, seed=7, name="set"):
    return Journal(tmp_path / name / "validation" / "0.jsonl", name, seed, ROWS, n)


def fields(key, text=""):
    return {"input": f"problem {key.row}", "output": f"answer {key.sample}{text}", "gts": "1", "step": 0}


def grade(key):
    return {"score": float(key.sample == 0), "acc": float(key.sample == 0), "pred": str(key.sample)}


def written(tmp_path, keys, text=""):
    one = journal(tmp_path)
    for key in keys:
        one.append(key, fields(key, text))
    one.close()
    return one


def finished(tmp_path, keys):
    one = journal(tmp_path)
    for key in keys:
        one.append(key, fields(key))
    one.finish(grade)
    return one.finished.read_bytes()


def test_the_finished_file_is_the_same_whatever_the_order_of_completion(tmp_path):
    shuffled = random.Random(0).sample(KEYS, len(KEYS))
    assert shuffled != KEYS
    one, other = finished(tmp_path / "a", KEYS), finished(tmp_path / "b", shuffled)
    assert one == other
    assert [json.loads(line)["uid"] for line in one.splitlines()] == [f"set-{row}_{sample}_0" for row, sample in KEYS]


def test_a_file_cut_at_any_byte_keeps_all_whole_lines_and_the_rest_is_missing(tmp_path):
    path = written(tmp_path, KEYS, text=" é\u2028").part
    whole = path.read_bytes()
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        one = journal(tmp_path)
        assert len(one) == whole[:end].count(b"\n")
        assert len(one) + len(list(one.missing())) == len(KEYS)
        assert path.read_bytes() == whole[: whole.rfind(b"\n", 0, end) + 1]


def test_a_cut_line_longer_than_a_block_is_removed(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"{}\n" + b"x" * 200_000)
    assert remove_cut_line(path)
    assert path.read_bytes() == b"{}\n"
    assert not remove_cut_line(path)
    path.write_bytes(b"x" * 200_000)
    assert remove_cut_line(path)
    assert path.read_bytes() == b""
    assert not remove_cut_line(tmp_path / "none")


def test_what_was_drawn_is_not_drawn_again_and_the_end_is_that_of_one_go(tmp_path):
    written(tmp_path / "a", KEYS[:5])
    rest = list(journal(tmp_path / "a").missing())
    assert rest == KEYS[5:]
    assert finished(tmp_path / "a", rest) == finished(tmp_path / "b", KEYS)


def test_a_doubled_line_counts_once_as_it_was_drawn_first(tmp_path):
    path = written(tmp_path, KEYS[:2]).part
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines, lines[0].replace(b"answer 0", b"another ")]))
    one = journal(tmp_path)
    assert len(one) == 2
    assert one.read(KEYS[0])["output"] == "answer 0"
    with pytest.raises(ValueError, match="there already"):
        one.append(KEYS[0], fields(KEYS[0]))


def test_a_kill_between_the_renaming_and_the_removal_doubles_nothing(tmp_path):
    part = written(tmp_path, KEYS).part
    left = part.read_bytes()
    one = journal(tmp_path)
    one.finish(grade)
    content = one.finished.read_bytes()
    assert not part.exists()
    part.write_bytes(left)
    again = journal(tmp_path)
    assert again.is_finished
    again.finish(grade)
    assert again.finished.read_bytes() == content


def test_a_kill_while_the_finished_file_is_written_loses_nothing(tmp_path):
    one = written(tmp_path, KEYS)

    def dies(key):
        if key == KEYS[6]:
            raise KeyboardInterrupt
        return grade(key)

    with pytest.raises(KeyboardInterrupt):
        one.finish(dies)
    assert [path.name for path in one.finished.parent.iterdir()] == ["0.part.jsonl"]
    assert journal(tmp_path).complete


def test_more_samples_keep_those_that_are_there_with_their_scores(tmp_path):
    content = finished(tmp_path, KEYS)
    more = journal(tmp_path, n=N + 1)
    assert list(more.missing()) == [Key(row, N) for row in range(ROWS)]
    for key in list(more.missing()):
        more.append(key, fields(key))
    assert [key for key, _ in more.ungraded()] == [Key(row, N) for row in range(ROWS)]
    more.finish(lambda key: grade(key) | {"pred": "new"})
    lines = more.finished.read_bytes().splitlines()
    assert [line for line in lines if json.loads(line)["pred"] != "new"] == content.splitlines()
    assert len(lines) == ROWS * (N + 1)


@pytest.mark.parametrize(
    ("foreign", "why"),
    [
        (b"hello\n", "no JSON"),
        (b"[1]\n", "no object"),
        (b'{"uid": 3, "seed": 1}\n', "a uid that is no text"),
        (encode({"uid": "other-0_0_0", "seed": sample_seed(7, "other", Key(0, 0))}), "another set"),
        (encode({"uid": "set-0_0_0", "seed": sample_seed(8, "set", Key(0, 0))}), "another seed"),
        (encode({"uid": "set-0_0_0"}), "no seed"),
        (encode({"uid": "set-3_0_0", "seed": sample_seed(7, "set", Key(3, 0))}), "a row too many"),
        (encode({"uid": "set-0_4_0", "seed": sample_seed(7, "set", Key(0, 4))}), "a sample too many"),
        (b"[" * 100_000 + b"\n", "nested too deeply"),
        (b"\n", "an empty line"),
    ],
)
def test_a_foreign_line_is_named_and_left_alone(tmp_path, foreign, why):
    path = written(tmp_path, KEYS[:2]).part
    path.write_bytes(path.read_bytes() + foreign)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"0\.part\.jsonl, line 3, is not a sample of this evaluation: move"):
        journal(tmp_path)
    assert path.read_bytes() == before


def test_hostile_text_stays_in_its_line_and_comes_back_as_it_was(tmp_path):
    text = '\n\r\u2028\x00"\\ \ud800 \x1b[31m {"uid": "set-0_1_0"}'
    one = journal(tmp_path)
    one.append(KEYS[0], fields(KEYS[0], text))
    one.close()
    again = journal(tmp_path)
    assert len(again) == 1
    assert again.read(KEYS[0])["output"] == "answer 0" + text


def test_each_sample_has_a_seed_of_its_own_that_depends_on_nothing_else():
    seeds = {sample_seed(seed, name, key) for seed in (0, 1) for name in ("a", "b") for key in KEYS}
    assert len(seeds) == 4 * len(KEYS)
    assert all(0 <= seed < 2**62 for seed in seeds)
    # The low 32 bits are all that a generator on the CPU takes.
    assert len({seed % 2**32 for seed in seeds}) == len(seeds)
    assert sample_seed(0, "a", Key(1, 2)) == sample_seed(0, "a", Key(1, 2))
