"""What keeps the answer fair: which rows may stand for a school, what is said of their memory, and which p is whose."""

import dataclasses

import pytest
from test_answer import LARGE, NOISE, OTHER, SMALL, main, row, study

from cl.reporting.page import answer, comparison, inference, page, pictures, rules
from cl.reporting.page.study import Budget

SEARCH = {"rates": [0.03, 0.1, 0.3], "validation": 0.1, "seeds": [0, 1]}


def changed(made, **more):
    return dataclasses.replace(made, **more)


def failed(made):
    return changed(made, failed=({"seed": 9, "error": "OSError: no"},))


def test_at_equal_bytes_everything_stored_is_rehearsal_like_any_other():
    everything = changed(row("er, everything stored", "control", None, 0.95, kept=180_000), all_stored=True)
    of = study(
        row("er", "rehearsal", SMALL, 0.80), row("avg", "merging", SMALL, 0.90, kept=1_000_000, noise=OTHER),
        everything, row("last network", "control", SMALL, 0.99), budgets=(SMALL,),
    )  # fmt: skip
    says = answer.answer(of)
    assert says.main[0].second.name == "er" and says.equal_bytes[0].second is everything
    (sentence,) = answer.sentences(of, says.equal_bytes, at_bytes=True)
    assert sentence.startswith(
        "At 50 samples, with no more bytes than the merge, er, everything stored (180.0 kB kept) is better than avg "
        "(1,004.0 kB kept) by 5.0 points"
    )
    large = changed(everything, runs=row("", "", None, 0.95, kept=1_100_000).runs)
    of = study(*of.rows[:2], large, budgets=(SMALL,))
    assert answer.answer(of).equal_bytes[0].second.name == "er"  # it has to fit like all others


def test_every_sentence_says_what_both_rows_keep():
    rows = [
        made
        for budget in (SMALL, LARGE)
        for made in (
            row("er", "rehearsal", budget, 0.8 + budget.bytes / 1e6), row("avg", "merging", budget, 0.85, kept=900_000),
            row("er, averaged", "both", budget, 0.82, kept=200_000, noise=OTHER),
            row("untrained", "control", budget, 0.84, seeds=1),
        )
    ]  # fmt: skip
    sections = page._sections(of := study(*rows), answer.answer(of))
    found = [sentence for _, sentences in sections for sentence in sentences]
    assert len(found) == 8 and found.pop(3).endswith("the same rows as above.")
    assert all(sentence.count(" kB kept)") == 2 for sentence in found)


@pytest.mark.parametrize("budgets", [(SMALL,), (Budget("all runs"),)])
def test_nothing_is_compared_where_the_memory_is_not_known(budgets):
    name = budgets[0].name if budgets[0].kind else None
    rows = [
        changed(row(*about, SMALL, value, noise=noise), budget=name)
        for about, value, noise in ((("er", "rehearsal"), 0.8, NOISE), (("avg", "merging"), 0.9, OTHER))
    ]
    of = study(*rows, budgets=budgets)
    assert "kB kept) by 10.0 points" in main(of)[0]
    for run in rows[0].runs.values():
        del run["persistent_bytes"]
    place = "At 50 samples" if name else "Among all runs"
    assert main(of) == [
        f"{place}: avg (104.0 kB kept) and er are not compared, as the results do not say how many bytes each of them "
        "keeps."
    ]


def test_a_row_with_a_failed_seed_stands_for_no_other():
    lucky = failed(row("ties", "merging", SMALL, 0.99, held_out=0.99, seeds=3, noise=OTHER))
    of = study(
        failed(row("gdumb", "rehearsal", SMALL, 0.95, held_out=0.95, seeds=3)),
        row("er", "rehearsal", SMALL, 0.80, held_out=0.8), row("avg", "merging", SMALL, 0.85, held_out=0.85), lucky,
        failed(row("untrained, all passes", "control", SMALL, 0.99, held_out=0.99, seeds=3)),
        row("untrained", "control", SMALL, 0.8, held_out=0.8), budgets=(SMALL,),
    )  # fmt: skip
    says = answer.answer(of)
    assert (says.main[0].first.name, says.main[0].second.name) == ("avg", "er")
    assert says.control[0].second.name == "untrained"
    (table,) = comparison.tables(of)
    assert table.best.name == "avg" and table.lines[0].row is lucky  # it has its place and rank
    assert table.lines[0].rank == 1
    found = pictures.points(of, pictures.MEMORY)
    assert [point.row.name for point in pictures.front(found, True)] == ["avg"]
    assert "A row with a failed seed represents no school" in rules.of_answer(of)[0]
    only = study(*(each for each in of.rows if each.name not in ("er", "avg")), budgets=(SMALL,))
    assert answer.answer(only).main == () and comparison.tables(only)[0].best is None


def test_the_control_has_the_stored_samples_of_the_merge():
    none = row("regmean", "merging", None, 0.99, noise=OTHER)
    of = study(
        row("er", "rehearsal", SMALL, 0.80), none, row("avg + fine-tuning", "merging", SMALL, 0.85, noise=OTHER),
        row("untrained", "control", SMALL, 0.84), budgets=(SMALL,),
    )  # fmt: skip
    says = answer.answer(of)
    assert says.main[0].first is none and says.control[0].first.name == "avg + fine-tuning"
    assert answer.answer(study(of.rows[0], none, of.rows[3], budgets=(SMALL,))).control == ()
    headings = [heading for heading, _ in page._sections(of, says)]
    assert headings[-1] == "Against an untrained network on the same stored samples"
    # Of a budget of bytes, one that keeps fewer networks stores more samples.
    in_bytes = study(*of.rows, budgets=(Budget("50 samples", "bytes", 104_000, 1000),))
    headings = [heading for heading, _ in page._sections(in_bytes, answer.answer(in_bytes))]
    assert headings[-1] == "Against an untrained network with the same bytes"


def test_without_budgets_the_control_is_one_with_as_many_stored_samples():
    rows = [
        changed(made, budget=None)
        for made in (
            row("er", "rehearsal", SMALL, 0.80), row("avg, finetune_samples=50", "merging", SMALL, 0.85, noise=OTHER),
            row("untrained, finetune_samples=50", "control", SMALL, 0.80),
            row("untrained, finetune_samples=200", "control", LARGE, 0.90),
        )
    ]  # fmt: skip
    (claim,) = answer.answer(study(*rows, budgets=(Budget("all runs"),))).control
    assert claim.second.name == "untrained, finetune_samples=50"


def test_a_pair_has_one_p_for_each_question_and_is_written_out_once():
    rows = [
        row("er", "rehearsal", SMALL, 0.80, held_out=0.8),
        row("avg", "merging", SMALL, 0.803, noise=OTHER, held_out=0.8),
    ]
    of = study(*rows, budgets=(SMALL,))
    sections = dict(page._sections(of, answer.answer(of)))
    assert sections["At equal bytes"] == ["At 50 samples, with no more bytes than the merge: the same rows as above."]
    # Two rows that are the same at every budget are one test, however many budgets they stand for.
    merge = row("regmean", "merging", None, 0.803, held_out=0.9, kept=500_000, noise=OTHER)
    all_of_it = changed(row("er, everything stored", "control", None, 0.80, held_out=0.9), all_stored=True)
    large = row("er", "rehearsal", LARGE, 0.80, held_out=0.8)
    of = study(rows[0], large, merge, all_of_it)
    says = answer.answer(of)
    alone = inference.paired(merge.values("average_accuracy"), all_of_it.values("average_accuracy")).p
    assert [claim.p for claim in says.equal_bytes] == [alone, alone] and alone < 0.5
    first, second = dict(page._sections(of, says))["At equal bytes"]
    assert "no difference between regmean (500.0 kB kept) and er, everything stored (100.0 kB kept)" in first
    assert second == "At 200 samples, with no more bytes than the merge: the same rows as at 50 samples."
    assert [claim.p for claim in says.main] == [2 * alone, 2 * alone]  # er is another row at each budget
    assert "Holm's correction over the budgets of one question" in rules.of_answer(of)[1]
    assert "the same two rows can have another p there" in rules.of_answer(of)[1]


def test_the_rules_say_from_how_many_rows_each_champion_was_chosen():
    rows = [
        *(row(name, "rehearsal", SMALL, 0.8, held_out=0.8) for name in ("er", "der")),
        *(row(name, "merging", SMALL, 0.8, held_out=0.8) for name in ("avg", "ties", "magmax")),
        row("greedy", "merging", SMALL, 0.8, held_out=0.8, passes=2000), failed(row("opcm", "merging", SMALL, 0.8)),
        row("not searched for", "merging", SMALL, 0.8),
    ]  # fmt: skip
    of = study(*rows, budgets=(SMALL,))
    assert "It was chosen from 2 rows of rehearsal, 3 rows of merging, 0 rows of both." in rules.of_answer(of)[0]
    of = study(*rows, row("er", "rehearsal", LARGE, 0.8))
    assert (
        "It was chosen at 50 samples from 2 rows of rehearsal, 3 rows of merging, 0 rows of both; at 200 samples from "
        "1 row of rehearsal, 0 rows of merging, 0 rows of both."
    ) in rules.of_answer(of)[0]


def test_the_rules_say_what_the_search_cost_and_saw():
    rows = [row("er", "rehearsal", SMALL, 0.8, held_out=0.8), row("joint, to convergence", "bound", None, 0.9)]
    alone, of = study(rows[0], search=SEARCH), study(*rows, search=SEARCH)
    # 3 rates with 2 seeds
    assert "The search of learning rates is not counted: 6 more trainings for each row." in " ".join(
        rules.counted(alone)
    )
    assert "6 more trainings for each row, and for one trained to convergence also" in " ".join(rules.counted(of))
    for each in (alone, of):
        assert "6 tries a row." in rules.of_search(each) and "which a stream does not allow" in rules.of_search(each)
        assert ("to convergence then tries several lengths" in rules.of_search(each)) == (each is of)
    assert "not counted:" not in " ".join(rules.counted(study(*rows)))
    assert any("other runs shared the processors at the same time" in words for words in rules.counted(of))


def test_the_rules_of_statistics_say_what_flatters_the_best_and_which_rows_count_twice():
    of = study(row("er", "rehearsal", SMALL, 0.8), budgets=(SMALL,))
    words = " ".join(rules.of_statistics(of, comparison.tables(of)))
    assert "chosen by the same numbers, so differences to it look a little larger than they are" in words
    assert "Rows with equal values at every seed stay rows of their own, as they differ in what they keep." in words
