"""The page of `verl-setpo report` in a real browser: what is first, what it promises, what paper and phones get."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from playwright.sync_api import expect

from tests.evaluation.browser import opened
from tests.evaluation.report_files import write_rollouts, write_validation
from tests.evaluation.test_report import invoke
from tests.evaluation.test_report_page import PHONE


def rows(section: Any) -> list[tuple[str, int]]:
    """Problem and change of each row of a browser, over all its pages."""
    found: list[tuple[str, int]] = []
    while True:
        changes = [int(text.replace("−", "-")) for text in section.locator("tbody td:last-child").all_inner_texts()]
        found += zip(section.locator("tbody th").all_inner_texts(), changes, strict=True)
        if section.get_by_role("button", name="next").is_disabled():
            return found
        section.get_by_role("button", name="next").click()


def test_problems_are_in_the_order_of_their_change_for_the_pair_that_is_chosen(
    browser: Any, page_of_three: Path
) -> None:
    with opened(browser, page_of_three) as it:
        section = it.page.locator("[data-browser=problems]")
        assert "those that changed most first" in section.inner_text()
        pairs = section.locator("select option").all_inner_texts()
        assert pairs == ["grpo → setpo", "grpo → bare", "grpo, step 0 → grpo", "setpo, step 0 → setpo"]
        orders = []
        for i in range(len(pairs)):
            section.locator("select").select_option(str(i))
            found = rows(section)
            assert len(found) == 30
            sizes = [abs(change) for _, change in found]
            assert sizes == sorted(sizes, reverse=True)
            assert section.locator(".shown h3").first.inner_text() == found[0][0]  # the first is the one that is open
            orders.append([problem for problem, _ in found])
        assert orders[0] != orders[1]
        assert it.complaints == []


def test_the_start_of_the_chosen_pair_stands_beside_the_runs(browser: Any, page_of_three: Path) -> None:
    with opened(browser, page_of_three) as it:
        section = it.page.locator("[data-browser=problems]")
        heads, shown = section.locator("thead th"), section.locator(".model h3")
        assert heads.all_inner_texts() == ["problem", "grpo", "setpo", "bare", "change, points"]
        section.locator("select").select_option("3")
        assert heads.all_inner_texts() == ["problem", "setpo, step 0", "grpo", "setpo", "bare", "change, points"]
        assert shown.all_inner_texts() == ["setpo, step 0", "grpo", "setpo", "bare"]


def test_credit_is_spoken_of_only_where_rollouts_have_it(browser: Any, page_of_three: Path, tmp_path: Path) -> None:
    write_validation(tmp_path / "run", 5, lambda i: 0.5)
    write_rollouts(tmp_path / "run", 5, log=None)
    invoke(tmp_path / "run", "--out", tmp_path / "out")
    with opened(browser, tmp_path / "out" / "report.html") as it:
        without = it.page.locator("[data-browser=training] > p:not(.hint)").inner_text()
        assert "those with the most unlike rewards first" in without
        assert "credit" not in without.lower()
        # One run alone: nothing changed.
        assert "changed most" not in it.page.locator("[data-browser=problems]").inner_text()
    with opened(browser, page_of_three) as it:
        assert "most unlike credit first" in it.page.locator("[data-browser=training] > p:not(.hint)").inner_text()


def test_the_page_says_why_verl_logs_other_figures(browser: Any, page_of_three: Path) -> None:
    with opened(browser, page_of_three) as it:
        said = it.page.locator("section[aria-labelledby=summary]").inner_text()
        assert "best@k and maj@k, draws with replacement" in said


def test_paper_gets_what_is_folded_on_the_screen_and_no_heading_alone(browser: Any, page_of_three: Path) -> None:
    with opened(browser, page_of_three) as it:
        folded, table = it.page.locator("details.more"), it.page.locator("details.more .figures")
        chart = "document.querySelector('.plot svg').getBoundingClientRect().width"
        width = it.page.evaluate(chart)
        expect(table).to_be_hidden()
        it.page.evaluate("dispatchEvent(new Event('beforeprint'))")
        expect(table).to_be_visible()
        assert it.page.evaluate(chart) < width
        assert it.page.locator("main > section:not(.browser) details:not([open])").count() == 0
        it.page.emulate_media(media="print")
        for heading in ("h2", "h2 + .quiet", "summary"):
            found = it.page.locator(heading).evaluate_all("all => all.map(one => getComputedStyle(one).breakAfter)")
            assert set(found) == {"avoid"}
        # The box around a table would end a page with an empty row.
        assert it.page.locator(".scroll").first.evaluate("box => getComputedStyle(box).borderTopWidth") == "0px"
        it.page.evaluate("dispatchEvent(new Event('afterprint'))")
        assert folded.get_attribute("open") is None


def test_after_printing_the_page_is_as_before(browser: Any, page_of_three: Path, tmp_path: Path) -> None:
    with opened(browser, page_of_three) as it:
        look = "plots => plots.map(plot => plot.querySelector('svg').getBoundingClientRect().width)"
        before = it.page.locator(".plot").evaluate_all(look)
        it.page.pdf(path=tmp_path / "report.pdf", format="A4")
        it.page.wait_for_timeout(1000)
        assert it.page.locator(".plot").evaluate_all(look) == before
        assert it.page.locator("details.more").get_attribute("open") is None
        assert it.complaints == []


def test_a_table_that_a_phone_cuts_says_so_until_its_end_is_seen(browser: Any, page_of_three: Path) -> None:
    with opened(browser, page_of_three, **PHONE) as it:
        table = it.page.locator(".scroll").first
        hint = it.page.locator(".hint").first
        expect(hint).to_be_visible()
        assert "to the right" in hint.inner_text()
        table.evaluate("table => { table.scrollLeft = table.scrollWidth; }")
        expect(hint).to_be_hidden()
    with opened(browser, page_of_three) as it:
        it.page.locator("details.more > summary").click()
        expect(it.page.locator("details.more .figures")).to_be_visible()
        expect(it.page.locator(".hint:visible")).to_have_count(0)
