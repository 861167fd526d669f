"""The page of `verl-setpo report` in a real browser."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.evaluation.browser import opened
from tests.evaluation.report_files import write_hostile_run, write_metrics
from tests.evaluation.test_report import invoke

PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
VALIDATION_CHARTS = [
    "Pass@k after training",
    "Distinct correct answers over training",
    "Pass@1 over training",
    "Majority@k",
    "Branching",
]
TRAINING_CHARTS = [
    "Reward",
    "Distinct clusters among the correct",
    "Coverage: prompts with a correct rollout",
    "Entropy of the policy",
    "Share of the advantage that is credit",
    "Prompts that teach nothing",
]
HACKED = "window.hacked !== undefined || document.querySelector('main iframe, main img, main b script') !== null"


@pytest.fixture(scope="module")
def hostile_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    result = invoke(write_hostile_run(folder), "--out", folder / "out")
    assert result.exit_code == 0, result.output
    return folder / "out" / "report.html"


def test_all_charts_are_drawn_without_a_complaint_or_a_request(browser: Any, page_of_three: Path) -> None:
    with opened(browser, page_of_three) as it:
        assert it.page.locator("figcaption").all_inner_texts() == VALIDATION_CHARTS + TRAINING_CHARTS
        drawn = it.page.locator(".plot").evaluate_all(
            "plots => plots.map(plot => plot.querySelectorAll('.scatterlayer path.js-line').length)"
        )
        # Start and three runs, each a line and the edge of its band; of training curves two a run that has them.
        assert drawn == [8, 6, 6, 8, 8, *[4, 2, 2, 4, 2, 2]]
        assert (it.complaints, it.requests) == ([], [])


def test_a_click_on_a_problem_shows_its_rollouts_by_answer(browser: Any, page_of_three: Path) -> None:
    with opened(browser, page_of_three) as it:
        section = it.page.locator("[data-browser=problems]")
        section.get_by_placeholder("find in problems").fill("problem 7")
        section.get_by_role("button", name="problem 7", exact=True).click()
        shown = section.locator(".shown")
        assert shown.locator("h3").first.inner_text() == "problem 7"
        assert "truth of problem 7" in shown.inner_text()
        models = shown.locator(".model")
        assert [name.split("\n")[0] for name in models.all_inner_texts()] == ["grpo", "setpo", "bare"]
        grpo = models.nth(0)
        right = grpo.locator(".cluster.right .answer").all_inner_texts()
        assert right
        assert all(re.fullmatch(r"way [012] of 7", answer) for answer in right)
        assert len(set(right)) == len(right)
        assert "Let us see. Problem 7, sample" in grpo.locator("pre").first.inner_text()
        assert "reward 1" in grpo.inner_text()
        # What is closed is put there when it is opened.
        before = grpo.locator(".cluster").first.locator(".rollout").count()
        grpo.locator(".cluster").first.get_by_text(re.compile("^[0-9]+ more$")).click()
        expect(grpo.locator(".cluster").first.locator(".rollout")).not_to_have_count(before)
        assert (it.complaints, it.requests) == ([], [])


def test_lost_problems_are_those_that_the_second_run_solves_less_often(browser: Any, page_of_three: Path) -> None:
    with opened(browser, page_of_three) as it:
        section = it.page.locator("[data-browser=problems]")
        assert section.locator("select option").first.inner_text() == "grpo → setpo"
        section.get_by_role("button", name="lost", exact=True).click()
        lost, changes = [], []
        while True:
            lost += section.locator("tbody th").all_inner_texts()
            changes += section.locator("tbody td:last-child").all_inner_texts()
            if section.get_by_role("button", name="next").is_disabled():
                break
            section.get_by_role("button", name="next").click()
        assert {f"problem {i}" for i in range(10)} <= set(lost)
        assert all(change.startswith("−") for change in changes)
        sizes = [int(change.removeprefix("−")) for change in changes]
        assert sizes == sorted(sizes, reverse=True)


def test_training_rollouts_stand_side_by_side_with_credit_where_it_is_known(browser: Any, page_of_three: Path) -> None:
    with opened(browser, page_of_three) as it:
        section = it.page.locator("[data-browser=training]")
        # The prompt with the most unlike credit first, of the last step.
        section.get_by_role("button", name="step 10: user training prompt 3 of step 10 assistant").click()
        grpo, setpo = section.locator(".model").all()
        assert "credit" not in grpo.inner_text()
        assert "A response of grpo, session 0." in grpo.locator("pre").first.inner_text()
        assert setpo.locator(".cluster").count() == 2
        assert "rollout 0 · reward 1 · credit −0.500 · advantage 0.000" in setpo.inner_text()
        for more in setpo.get_by_text("1 more").all():
            more.click()
        expect(setpo.get_by_text("rollout 3 · reward 0", exact=False)).to_contain_text("cut by the length limit")
        assert (it.complaints, it.requests) == ([], [])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_only_tables_scroll_sideways(browser: Any, page_of_three: Path, scheme: str) -> None:
    with opened(browser, page_of_three, color_scheme=scheme, **PHONE) as it:
        it.page.locator("[data-browser=problems] tbody button").nth(3).click()
        assert it.page.evaluate("document.documentElement.scrollWidth") == 390
        assert it.page.evaluate("document.querySelector('.figures').offsetWidth") > 390
        wide = "plots => plots.filter(plot => plot.querySelector('svg').getBoundingClientRect().width > 390).length"
        assert it.page.locator(".plot").evaluate_all(wide) == 0
        assert it.complaints == []


def test_printed_pages_hold_the_charts_and_no_controls(browser: Any, page_of_three: Path, tmp_path: Path) -> None:
    with opened(browser, page_of_three, color_scheme="dark") as it:
        printed = it.page.pdf(path=tmp_path / "report.pdf", format="A4")
        assert printed.count(b"/Type /Page\n") + printed.count(b"/Type /Page ") + printed.count(b"/Type /Page/") >= 2
        it.page.emulate_media(media="print", color_scheme="dark")
        assert it.page.locator(".controls").first.is_hidden()
        assert it.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert it.complaints == []


def test_a_hostile_file_draws_no_more_than_a_small_one_and_runs_nothing(
    browser: Any, hostile_page: Path, page_of_three: Path
) -> None:
    with opened(browser, page_of_three) as it:
        drawn = it.page.locator("*").count()
    with opened(browser, hostile_page) as it:
        page = it.page
        assert page.locator("*").count() <= drawn
        everything = page.title()
        for name in ("problems", "training"):
            section = page.locator(f"[data-browser={name}]")
            for button in section.locator("tbody button").all()[:8]:
                button.click()
                assert not page.evaluate(HACKED)
                everything += page.evaluate("document.documentElement.innerText")
        text = page.locator("[data-browser=problems]").inner_text()
        assert "All 10000 problems" in text
        assert "<img src=x onerror=" in page.locator("main").inner_text()  # as text
        assert not re.search("[\u202a-\u202e\u2066-\u2069\u2028\u2029\x00\x07\x1b\x85\ud800-\udfff\ufeff]", everything)
        assert not page.evaluate(HACKED)
        assert (it.complaints, it.requests) == ([], [])


def test_all_problems_of_a_large_file_can_be_found_but_few_are_drawn(browser: Any, hostile_page: Path) -> None:
    with opened(browser, hostile_page) as it:
        section = it.page.locator("[data-browser=problems]")
        assert section.locator("tbody tr").count() == 8
        section.get_by_placeholder("find in problems").fill(" 9876")
        assert section.locator("tbody tr").count() == 1
        assert it.page.evaluate("document.querySelectorAll('*').length") < 10_000


def test_a_response_of_a_megabyte_is_cut_and_says_by_how_much(browser: Any, hostile_page: Path) -> None:
    with opened(browser, hostile_page) as it:
        texts = it.page.evaluate(
            "JSON.parse(document.getElementById('data').textContent).problems.texts.flatMap(entry => entry.groups)"
            ".flatMap(group => group.clusters).flatMap(c => c.rollouts).map(r => r.text).filter(t => t && t.length > 1)"
        )
        assert texts
        assert all(left_out > 900_000 and len(head) + len(tail) < 40_000 for head, left_out, tail in texts)
    assert hostile_page.stat().st_size < 16_000_000


def test_a_script_that_got_into_the_page_would_not_run(browser: Any, page_of_three: Path, tmp_path: Path) -> None:
    # The second wall: were a text ever put there as HTML, the policy refuses its scripts, handlers and loads.
    planted = tmp_path / "planted.html"
    bait = "<script>window.hacked = 1</script><img src='http://127.0.0.1:9/' onerror='window.hacked = 1'><main>"
    planted.write_text(page_of_three.read_text(encoding="utf-8").replace("<main>", bait, 1), encoding="utf-8")
    with opened(browser, planted) as it:
        assert it.page.locator("body > img").count() == 1
        assert it.page.evaluate("window.hacked") is None
        assert len(it.complaints) >= 3  # inline script, image, handler
        assert all("Content Security Policy" in complaint for complaint in it.complaints)
        assert it.page.evaluate("fetch('http://127.0.0.1:9/').then(() => 'sent', () => 'refused')") == "refused"


def test_a_run_with_nothing_but_metrics_has_its_curves(browser: Any, tmp_path: Path) -> None:
    write_metrics(tmp_path / "run", 50, ours=True)
    result = invoke(tmp_path / "run", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "run: no validation samples, so no pass@k" in " ".join(result.output.split())
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["report.html"]
    with opened(browser, tmp_path / "out" / "report.html") as it:
        assert it.page.locator("figcaption").all_inner_texts() == TRAINING_CHARTS
        assert it.page.locator("[data-browser]").count() == 0
        assert it.complaints == []
